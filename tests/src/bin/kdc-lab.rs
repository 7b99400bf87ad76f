//! `kdc-lab`: labs of fresh servers, from the command line.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the command's show layer")]

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use kdc_tests::lab::state::State;
use kdc_tests::lab::{Lab, Wanted, boot, workstation};
use kdc_tests::server::{Fault, Server};
use serde_json::json;

/// Fresh servers in namespaces on a private bridge with no way out, to be installed on and broken.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a lab and wait until every server answers SSH.
    Up {
        /// The lab's name.
        #[arg(long, default_value = "lab")]
        name: String,
        /// How many servers: node1, node2, …
        #[arg(long, default_value_t = 3)]
        servers: usize,
        /// The network, as 10.66.7.0/24 [default: the first free one of 10.66.0.0/24 to 10.66.255.0/24].
        #[arg(long, value_parser = parse_subnet)]
        subnet: Option<[u8; 3]>,
        /// Size of each server's own disk, as 512M or 4G; disk faults need it.
        #[arg(long, value_parser = parse_mib, value_name = "SIZE")]
        disk: Option<u64>,
        /// Give servers a default route that ends at the bridge, so that a capture sees what tries to get out.
        #[arg(long)]
        gateway: bool,
    },
    /// Log in to a server by SSH as root (or USER@SERVER), or run a command there.
    Ssh {
        /// The lab's name.
        #[arg(long, default_value = "lab")]
        name: String,
        /// The server, as SERVER or USER@SERVER.
        server: String,
        /// A command to run there.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Run a command on a server as root, without SSH.
    Exec {
        /// The lab's name.
        #[arg(long, default_value = "lab")]
        name: String,
        /// The server.
        server: String,
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Run a program as the operator's workstation: inside the lab's network, at its address .1, no way out.
    Run {
        /// The lab's name.
        name: String,
        /// The program and its arguments.
        #[arg(required = true, last = true)]
        words: Vec<OsString>,
    },
    /// Show a lab's servers.
    Status {
        /// The lab's name.
        #[arg(long, default_value = "lab")]
        name: String,
        /// How to show it.
        #[arg(long, value_enum, default_value_t = Form::Table)]
        output: Form,
    },
    /// Show all labs.
    List {
        /// How to show them.
        #[arg(long, value_enum, default_value_t = Form::Table)]
        output: Form,
    },
    /// Print a server's root folder as the host sees it; don't follow absolute links through it.
    Path {
        /// The lab's name.
        #[arg(long, default_value = "lab")]
        name: String,
        /// The server.
        server: String,
    },
    /// Break a server or mend it: kill, start, cut, mend, shape RATE, unshape, fill, unfill, readonly, writable.
    Fault {
        /// The lab's name.
        name: String,
        /// The server.
        server: String,
        /// What happens to it.
        fault: String,
        /// The rate of `shape`, as 10mbit.
        rate: Option<String>,
    },
    /// Take a lab down and leave nothing of it, also after `up` was killed.
    Down {
        /// The lab's name.
        #[arg(long, default_value = "lab")]
        name: String,
    },
    #[command(name = "_boot", hide = true)]
    Boot { lab: String, server: String },
    #[command(name = "_join", hide = true)]
    Join {
        lab: String,
        #[arg(long)]
        server: Option<String>,
        #[arg(required = true, last = true)]
        words: Vec<OsString>,
    },
    #[command(name = "_init", hide = true)]
    Init { lab: String, server: String },
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Table,
    Json,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kdc-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { name, servers, subnet, disk, gateway } => {
            up(&Wanted { name, servers, subnet, disk_mib: disk, gateway })?;
        }
        Command::Ssh { name, server, words } => {
            let lab = Lab::open(&name)?;
            let host = server.rsplit('@').next().unwrap_or(&server);
            lab.state().server(host)?;
            let words = workstation::ssh_words(lab.state(), &server, &words);
            match workstation::become_program(lab.state(), &words)? {}
        }
        Command::Exec { name, server, words } => return exec(&name, &server, &words),
        Command::Run { name, words } => {
            match workstation::become_program(Lab::open(&name)?.state(), &words)? {}
        }
        Command::Status { name, output } => status(&Lab::open(&name)?, output)?,
        Command::List { output } => list(output)?,
        Command::Path { name, server } => {
            let root = Lab::open(&name)?.server(&server)?.root();
            println!("{}", root.with_context(|| format!("`{server}` is off"))?.display());
        }
        Command::Fault { name, server, fault, rate } => {
            let fault = Fault::from_words(&fault, rate.as_deref())?;
            Lab::open(&name)?.server(&server)?.inflict(&fault)?;
        }
        Command::Down { name } => {
            if !Lab::take_down(&name)? {
                eprintln!("kdc-lab: no lab `{name}`, nothing to do");
            }
        }
        Command::Boot { lab, server } => {
            let state = stage_state(&lab)?;
            match boot::enter(&state, state.server(&server)?)? {}
        }
        Command::Join { lab, server, words } => {
            match workstation::join(&stage_state(&lab)?, server.as_deref(), &words)? {}
        }
        Command::Init { lab, server } => {
            let state = stage_state(&lab)?;
            match boot::init(&state, state.server(&server)?)? {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn stage_state(lab: &str) -> Result<State> {
    State::read(lab)?.with_context(|| format!("lab `{lab}` is gone"))
}

fn up(wanted: &Wanted) -> Result<()> {
    let start = std::time::Instant::now();
    let progress = |line: &str| eprintln!("[{:5.1} s] {line}", start.elapsed().as_secs_f32());
    let lab = Lab::up(wanted, &progress)?;
    status(&lab, Form::Table)
}

fn exec(lab: &str, server: &str, words: &[String]) -> Result<ExitCode> {
    let server = Lab::open(lab)?.server(server)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let status =
        server.command(&words)?.status().context("cannot start nsenter (package util-linux)")?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(255)).unwrap_or(255)))
}

fn status(lab: &Lab, form: Form) -> Result<()> {
    let servers = lab.servers()?;
    match form {
        Form::Json => {
            let rows = servers.iter().map(|server| {
                json!({
                    "name": server.name(),
                    "address": server.address(),
                    "running": server.is_running(),
                    "pid": server.init_pid(),
                    "root": server.root(),
                    "hostKey": server.host_key(),
                })
            });
            let rows: Vec<_> = rows.collect();
            let shown = json!({ "lab": lab.state(), "servers": rows });
            println!("{}", serde_json::to_string_pretty(&shown)?);
        }
        Form::Table => {
            println!("{:<10} {:<14} {:<8} PID", "SERVER", "ADDRESS", "STATE");
            for server in servers {
                let state = if server.is_running() { "running" } else { "off" };
                let pid = server.init_pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
                println!(
                    "{:<10} {:<14} {:<8} {pid}",
                    server.name(),
                    server.address().to_string(),
                    state
                );
            }
        }
    }
    Ok(())
}

fn list(form: Form) -> Result<()> {
    let labs = State::all()?;
    match form {
        Form::Json => println!("{}", serde_json::to_string_pretty(&labs)?),
        Form::Table => {
            println!("{:<16} {:<16} {:<8} STATE", "LAB", "NETWORK", "SERVERS");
            for lab in labs {
                let state = if lab.complete { "up" } else { "half made" };
                println!("{:<16} {:<16} {:<8} {state}", lab.name, lab.network(), lab.servers.len());
            }
        }
    }
    Ok(())
}

fn parse_subnet(text: &str) -> Result<[u8; 3]> {
    let address = text.strip_suffix(".0/24").context("write it as 10.66.7.0/24")?;
    let bytes: Vec<u8> = address.split('.').map(str::parse).collect::<Result<_, _>>()?;
    let subnet = <[u8; 3]>::try_from(bytes).ok().context("write it as 10.66.7.0/24")?;
    let private =
        matches!(subnet, [10, ..] | [192, 168, _]) || (subnet[0] == 172 && subnet[1] & 0xf0 == 16);
    if !private {
        bail!("`{text}` isn't a private network");
    }
    Ok(subnet)
}

fn parse_mib(text: &str) -> Result<u64> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number.parse().context("write it as 512M or 4G")?;
    match unit {
        "M" => Ok(number),
        "G" => number.checked_mul(1024).context("too large"),
        _ => bail!("write it as 512M or 4G"),
    }
}
