//! The command tree: what an operator can ask for, one command a file.
//!
//! The doc comments here are the help texts, the man pages and (through `docs/cli.md`) the
//! reference. A command reads its files, asks the fleet, and hands the [`Screen`] what to show.

use clap::{CommandFactory, Parser, Subcommand};

use crate::show::{Color, Complaint, Look, Output, Screen};

mod apply;
mod arguments;
mod audit;
mod bundle;
mod carry_out;
mod check;
mod ending;
mod error;
mod generate;
mod gpu;
mod hosts;
mod init;
mod interrupt;
mod judge;
mod kubeconfig;
mod license;
mod licensing;
mod opened;
mod plan;
mod prompts;
mod report;
mod site;
mod status;
mod undo;
mod up;

use self::interrupt::until_ctrl_c;
pub use self::{bundle::BundleCommandError, error::CommandError, license::LicenseCommandError};

/// Turn fresh Linux servers into a Kubernetes cluster, from one signed file, over SSH.
///
/// kdc-install needs nothing but SSH to the servers and one bundle. It reaches no other network.
/// You see what it will do before it does it, it goes on where it stopped, and it takes back
/// everything it did.
#[derive(Debug, Parser)]
#[command(name = "kdc-install", version, max_term_width = 100, after_long_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  One server, this one:       kdc-install up --bundle kdc.bundle
  Three servers over SSH:     kdc-install up --bundle kdc.bundle --host root@10.0.0.11 \\
                                --host root@10.0.0.12 --host root@10.0.0.13
  With a cluster file:        kdc-install init && kdc-install check --bundle kdc.bundle
                              kdc-install plan --bundle kdc.bundle -o plan.json
                              kdc-install apply plan.json --bundle kdc.bundle
  Take everything back:       kdc-install undo

Exit codes:
  0  everything asked for is done
  1  kdc-install broke
  2  the command line or a file you wrote is wrong
  3  a check refused, nothing was changed
  4  something was changed and the work stopped: `apply` again goes on, `undo` takes it back";

/// Flags of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// How to say what happens
    #[arg(long, global = true, value_enum, default_value = "human", value_name = "FORM")]
    pub(crate) output: Output,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: Color,
    /// Log what happens inside, to stderr; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Init),
    Check(check::Check),
    Plan(plan::Plan),
    Apply(apply::Apply),
    Up(up::Up),
    Status(status::Status),
    Gpu(gpu::Gpu),
    Audit(audit::Audit),
    Undo(undo::Undo),
    Kubeconfig(kubeconfig::Kubeconfig),
    License(license::LicenseCommand),
    Bundle(bundle::BundleCommand),
    Completions(generate::Completions),
    Man(generate::Man),
}

/// The whole command tree, for help, completions and man pages.
#[must_use]
pub fn tree() -> clap::Command {
    Cli::command()
}

/// Do what the command line asks. Ctrl-C ends those that only look at once; those that change
/// nodes see to it themselves.
///
/// # Errors
/// Whatever stopped it, with the exit code it stands for.
pub async fn run(cli: Cli) -> Result<(), Complaint> {
    let look = cli.look();
    match cli.command {
        Command::Init(command) => command.run(&Screen::new(look, 0, false)),
        Command::Check(command) => until_ctrl_c(|| false, command.run(look)).await,
        Command::Plan(command) => until_ctrl_c(|| false, command.run(look)).await,
        Command::Apply(command) => command.run(look).await,
        Command::Up(command) => command.run(look).await,
        Command::Status(command) => until_ctrl_c(|| false, command.run(look)).await,
        Command::Gpu(command) => until_ctrl_c(|| false, command.run(look)).await,
        Command::Audit(command) => until_ctrl_c(|| false, command.run(look)).await,
        Command::Undo(command) => command.run(look).await,
        Command::Kubeconfig(command) => until_ctrl_c(|| false, command.run(look)).await,
        Command::License(command) => command.run(look).await,
        Command::Bundle(command) => command.run(look).await,
        Command::Completions(command) => command.run(&Screen::new(look, 0, false)),
        Command::Man(command) => command.run(&Screen::new(look, 0, false)),
    }
}

impl Cli {
    /// The form of output asked for.
    #[must_use]
    pub fn look(&self) -> Look {
        Look { output: self.global.output, color: self.global.color }
    }
}

/// Logging, as the command line asks.
pub fn set_up(cli: &Cli) {
    use tracing_subscriber::EnvFilter;
    let level = match cli.global.verbose {
        0 => "off",
        1 => "kdc_install=info",
        2 => "kdc_install=debug",
        _ => "debug",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
