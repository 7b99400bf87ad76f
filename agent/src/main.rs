//! `kdc-agent`: the hand of kdc on one node.

mod audited;
mod complaint;
mod gpus;
mod healing;
mod status;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use kdc_agent::{
    control, daemon,
    facts::Look,
    gpu, heal,
    host::{Host as _, SystemHost},
    inventory,
    run::{self, FileValues, NoteWriter, RunError, Telling},
    serve::{self, Places},
    step::change::BlobSource,
    store::{
        EmptyShelf, STORE_PATH, Store,
        peer::{self, Folder},
        receive,
    },
    wire::{Failure, Outcome, Received, frame::encode},
};
use kdc_bundles::index::Digest;

/// One node's part of kdc.
///
/// `kdc-install` uploads this program and drives it over SSH; nobody has to call it by hand. What is
/// useful on the node itself: `kdc-agent status` says what kdc did here, `kdc-agent facts` what the
/// checks see. To take kdc off this node, use `kdc-install undo` where the cluster file is.
#[derive(Debug, Parser)]
#[command(name = "kdc-agent", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer an installer on standard input and output until it goes away.
    Serve {
        /// The only way there is; named so that it stays free for others.
        #[arg(long, required = true)]
        stdio: bool,
    },
    /// Take in pieces of the bundle on standard input; each is proved before it counts.
    Receive {
        /// Digest of an index this node has verified.
        #[arg(long, value_name = "sha256:HEX")]
        index: Digest,
    },
    /// Carry out a run, or go on where it stopped (the unit kdc-run-ID.service calls this).
    Run {
        /// Run id, as `kdc-agent status` lists it.
        id: String,
    },
    /// Take back everything in force, newest run first (the unit kdc-run-ID.service calls this).
    UndoRun {
        /// Id to keep the record of the undo under.
        id: String,
    },
    /// Give the bundle's content to other nodes, and take it from them (the unit kdc-share.service
    /// calls this).
    Share {
        /// The store.
        #[arg(long, value_name = "PATH", default_value = STORE_PATH, hide = true)]
        store: PathBuf,
        /// What was asked for, and by whom it may be asked.
        #[arg(long, value_name = "PATH", default_value = peer::SHARE_PATH, hide = true)]
        folder: PathBuf,
        /// Where to listen.
        #[arg(long, default_value_t = peer::PEER_PORT, hide = true)]
        port: u16,
    },
    /// Serve this node's images, keep the routes between pods, tell how the node is (kdc-agent.service
    /// calls this).
    Daemon {
        /// Folder with `agent.yaml` and `agent.d`.
        #[arg(long, value_name = "PATH", default_value = daemon::config::CONFIG_DIR, hide = true)]
        config: PathBuf,
        /// What kdc-gpu.service publishes.
        #[arg(long, value_name = "PATH", default_value = gpu::watch::DOCUMENT, hide = true)]
        gpus: PathBuf,
    },
    /// Put routes and masquerade rule where they are wanted, once (kdc-routes.service calls this).
    #[command(hide = true)]
    SettleRoutes {
        /// Folder with `agent.yaml` and `agent.d`.
        #[arg(long, value_name = "PATH", default_value = daemon::config::CONFIG_DIR)]
        config: PathBuf,
    },
    /// Look once at certificates, etcd and the clock, for the daemon (kdc-watch.service calls this).
    #[command(hide = true)]
    Watch {
        /// A certificate besides those of Kubernetes.
        #[arg(long = "certificate", value_name = "PATH")]
        certificates: Vec<String>,
    },
    /// What is watched on this node, what is not as wanted, what was put back. Changes nothing.
    ///
    /// Watched is what kdc put on the node, as its receipts say it: kernel parameters and modules,
    /// files, units, routes, mounts. What differs is told here, in /v1/health, /v1/events and metrics,
    /// and put back only where the cluster file (spec.selfHealing) or /etc/kdc/agent.d allows it, a
    /// few times an hour. To stop every repair on this node at once: `touch /etc/kdc/no-repair`.
    Heal(healing::Options),
    /// Look once and tell it as JSON (kdc-agent.service calls this).
    #[command(hide = true)]
    HealLook(healing::Places),
    /// Look, put back what may be put back, look again (kdc-heal.service calls this).
    #[command(hide = true)]
    HealRepair(healing::Places),
    /// Take in what kdc-control has to say, tell the cluster the head (kdc-audit.service calls this).
    #[command(hide = true)]
    AuditSettle(audited::Options),
    /// Keep the settings of GPUs that HAMi shares, on a control plane (kdc-control.service calls this).
    Control(control::Options),
    /// Tell the cluster what machine this is, and fetch how the licence stands (kdc-license.service calls this).
    #[command(hide = true)]
    LicenseRound(control::license::node::Options),
    /// What this node is: its hardware, and what kdc's checks see. Changes nothing.
    Facts {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// Copy the files that were read into this empty folder, for a test.
        #[arg(long, value_name = "FOLDER", hide = true)]
        record: Option<PathBuf>,
        /// In the copy, replace what identifies this machine.
        #[arg(long, requires = "record", hide = true)]
        anonymous: bool,
        /// Tell of GPUs what kdc-gpu.service published there, and ask none.
        #[arg(long, value_name = "PATH", hide = true)]
        gpus: Option<PathBuf>,
    },
    /// The GPUs of this node, and what is wrong with each. Changes nothing.
    Gpus {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
        /// NVML, where the loader doesn't find it (a driver in a container).
        #[arg(long, value_name = "PATH")]
        library: Option<PathBuf>,
    },
    /// Watch this node's GPUs and publish what they say (kdc-gpu.service calls this).
    GpuWatch(gpu::watch::Options),
    /// Ask NVML and tell it in lines (kdc-agent calls this itself: the library may hang or crash).
    #[command(hide = true)]
    GpuSurvey(gpus::SurveyOptions),
    /// Look at MIG instances or change them (kdc-agent calls this itself: NVML may hang or crash).
    #[command(hide = true)]
    GpuInstances(gpus::InstanceOptions),
    /// Runs on this node, and whether their changes are in force. Changes nothing.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(
        arguments.command,
        Command::Daemon { .. }
            | Command::Watch { .. }
            | Command::SettleRoutes { .. }
            | Command::HealLook(_)
            | Command::HealRepair(_)
            | Command::AuditSettle(_)
            | Command::Control(_)
            | Command::LicenseRound(_)
            | Command::GpuWatch(_)
            | Command::Run { .. }
            | Command::UndoRun { .. }
            | Command::Share { .. }
    ) {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .init();
    }
    match act(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            tell(&complaint::in_full(&error));
            ExitCode::from(1)
        }
    }
}

fn act(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { stdio: _ } => serve_stdio(),
        Command::Receive { index } => receive_pieces(&index),
        Command::Run { id } => carry_out(&id),
        Command::UndoRun { id } => take_back(&id),
        Command::Share { store, folder, port } => share(&store, &folder, port),
        Command::Daemon { config, gpus } => run_daemon(&config, &gpus),
        Command::Watch { certificates } => watch(&certificates),
        Command::SettleRoutes { config } => settle_routes(&config),
        Command::Heal(options) => healing::show_healing(&options),
        Command::HealLook(places) => healing::look(&places),
        Command::HealRepair(places) => healing::repair(&places),
        Command::AuditSettle(options) => audited::settle(&options),
        Command::Control(options) => run_control(&options),
        Command::LicenseRound(options) => {
            runtime()?.block_on(control::license::node::round(&options))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Facts { record: Some(place), anonymous, .. } => {
            inventory::record(&Look::machine(), &place, anonymous)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Facts { output, gpus, .. } => gpus::show_facts(output, gpus),
        Command::Gpus { output, library } => gpus::show_gpus(output, library),
        Command::GpuWatch(options) => {
            gpu::watch::run(&options)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::GpuSurvey(options) => gpus::survey_gpus(options),
        Command::GpuInstances(options) => gpus::instances(options),
        Command::Status { output } => status::show_status(output),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime can't start")
}

fn serve_stdio() -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let served = runtime.block_on(serve::serve(tokio::io::stdin(), tokio::io::stdout()));
    // A read of standard input that nobody will answer must not keep the process.
    runtime.shutdown_background();
    served.context("the installer's channel failed")?;
    Ok(ExitCode::SUCCESS)
}

fn receive_pieces(index: &Digest) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    let received = match Store::system().shelf(index) {
        Ok(shelf) => receive(&shelf, std::io::stdin().lock()),
        Err(error) => Received { pieces: 0, bytes: 0, failure: Some(Failure::from(error)) },
    };
    let mut output = std::io::stdout().lock();
    output
        .write_all(&encode(&received)?)
        .and_then(|()| output.flush())
        .context("no answer given")?;
    Ok(ExitCode::from(u8::from(received.failure.is_some())))
}

fn carry_out(id: &str) -> anyhow::Result<ExitCode> {
    let (host, places) = (SystemHost::new(), Places::system());
    let directory = run_directory(&places, id)?;
    let notes = NoteWriter::begin(&places.volatile, id);
    let plan = told(&notes, &host, run::load_plan(&directory))?;
    let shelf = Store::system().shelf(&plan.index);
    if let Err(error) = &shelf {
        // Steps that need no content can still be done; the others say what they miss.
        tracing::warn!(%error, "no content on this node");
    }
    let blobs: &dyn BlobSource = shelf.as_ref().map_or(&EmptyShelf, |shelf| shelf);
    let telling = Telling { notes: &notes };
    let stop = run::stop_on_signals().context("can't listen to signals")?;
    let values = FileValues::of_run(&host, id);
    let ended = run::execute(&directory, &host, blobs, &values, &telling, &stop);
    audited::run_ended(id, &plan, &ended);
    let outcome = told(&notes, &host, ended)?;
    if matches!(outcome, Outcome::Finished { .. })
        && let Err(error) = values.forget()
    {
        tracing::warn!(%error, "values that are not needed any more stay until a reboot");
    }
    Ok(exit_of(&outcome))
}

fn take_back(id: &str) -> anyhow::Result<ExitCode> {
    let (host, places) = (SystemHost::new(), Places::system());
    run::check_run_id(id)?;
    let notes = NoteWriter::begin(&places.volatile, id);
    // Undo needs nothing of it, and the disk it fills may be the reason for the undo.
    match Store::system().empty() {
        Ok(bytes) => tracing::info!(bytes, "the store was emptied"),
        Err(error) => tracing::warn!(%error, "the store stays as it is"),
    }
    let telling = Telling { notes: &notes };
    let stop = run::stop_on_signals().context("can't listen to signals")?;
    let values = FileValues::of_run(&host, id);
    let ended = run::undo(&places.runs, id, &host, &EmptyShelf, &values, &telling, &stop);
    audited::undo_ended(id, &ended);
    Ok(exit_of(&told(&notes, &host, ended)?))
}

/// A run that can't go on has no journal to say why in, so those who watch are told apart from it.
fn told<T>(
    notes: &NoteWriter,
    host: &SystemHost,
    result: Result<T, RunError>,
) -> Result<T, RunError> {
    result.inspect_err(|error| notes.stopped(&Failure::from(error), host.now_unix_ms()))
}

fn run_directory(places: &Places, id: &str) -> anyhow::Result<std::path::PathBuf> {
    run::check_run_id(id)?;
    let directory = places.runs.join(id);
    anyhow::ensure!(Path::is_dir(&directory), "there is no run `{id}` on this node");
    Ok(directory)
}

/// 4: changed and stopped; resume or undo can go on.
fn exit_of(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Finished { .. } | Outcome::Undone { .. } => ExitCode::SUCCESS,
        Outcome::Failed { .. } | Outcome::Interrupted | Outcome::Running { .. } => {
            ExitCode::from(4)
        }
    }
}

/// One thread for the network, a few for the disk.
fn share(store: &Path, folder: &Path, port: u16) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(3)
        .build()
        .context("the runtime can't start")?;
    let shared = runtime.block_on(peer::share(&Store::at(store), &Folder::at(folder), port));
    // What is being read for a peer need not be waited for.
    runtime.shutdown_background();
    shared?;
    Ok(ExitCode::SUCCESS)
}

fn run_daemon(config: &Path, gpus: &Path) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(daemon::run(config, gpus))?;
    Ok(ExitCode::SUCCESS)
}

fn settle_routes(config: &Path) -> anyhow::Result<ExitCode> {
    daemon::settle::settle_and_report(&SystemHost::new(), config)?;
    Ok(ExitCode::SUCCESS)
}

fn watch(certificates: &[String]) -> anyhow::Result<ExitCode> {
    heal::watch::see_and_report(&SystemHost::new(), &Look::machine(), certificates)?;
    Ok(ExitCode::SUCCESS)
}

fn run_control(options: &control::Options) -> anyhow::Result<ExitCode> {
    if options.audit {
        kdc_agent::audit::spool_on_stdout();
    }
    runtime()?.block_on(control::run(options))?;
    Ok(ExitCode::SUCCESS)
}

fn show(text: &str) {
    use std::io::Write as _;
    // A reader that closed its end early (`| head`) is no error of ours.
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}

fn tell(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
