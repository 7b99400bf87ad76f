//! `kdc-agent heal`, and the processes that look and repair for the daemon.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use kdc_agent::{
    audit::Log,
    daemon::config::CONFIG_DIR,
    heal::{MEMORY_FILE, REPORT_PATH, Round, show::render},
    host::{Attributes, Host as _, SystemHost},
    run::RUNS_DIR,
};

use super::{Output, show};

/// How `kdc-agent heal` shows it.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// What is as wanted too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    places: Places,
}

/// Where things are.
#[derive(Debug, clap::Args)]
pub(super) struct Places {
    /// Folder with `agent.yaml` and `agent.d`.
    #[arg(long, value_name = "PATH", default_value = CONFIG_DIR, hide = true)]
    config: PathBuf,
    /// What is remembered between looks.
    #[arg(long, value_name = "PATH", hide = true)]
    memory: Option<String>,
    /// Runs and their journals.
    #[arg(long, value_name = "PATH", default_value = RUNS_DIR, hide = true)]
    runs: PathBuf,
}

impl Places {
    fn round<'a>(&self, host: &'a SystemHost, all_rights: bool, remembers: bool) -> Round<'a> {
        let (runs, config, memory) = (self.runs.clone(), self.config.clone(), self.memory.clone());
        let audit = remembers.then(Log::system);
        Round { host, runs, config, memory, all_rights, remembers, audit }
    }
}

/// Look, and show it.
pub(super) fn show_healing(options: &Options) -> anyhow::Result<ExitCode> {
    let host = SystemHost::new();
    let mut round = options.places.round(&host, true, false);
    round.memory.get_or_insert_with(|| format!("/run/kdc/{MEMORY_FILE}"));
    let report = round.look();
    match options.output {
        Output::Json => show(&serde_json::to_string_pretty(&report)?),
        Output::Text => show(&render(&report, options.all)),
    }
    Ok(ExitCode::SUCCESS)
}

/// For the daemon.
pub(super) fn look(places: &Places) -> anyhow::Result<ExitCode> {
    let host = SystemHost::new();
    show(&serde_json::to_string(&places.round(&host, false, true).look())?);
    Ok(ExitCode::SUCCESS)
}

/// In a unit of its own.
pub(super) fn repair(places: &Places) -> anyhow::Result<ExitCode> {
    let host = SystemHost::new();
    let report = places.round(&host, true, true).repair()?;
    let text = serde_json::to_vec(&report)?;
    host.write(REPORT_PATH, &text, Attributes::root(0o600)).context("no word is left")?;
    Ok(ExitCode::SUCCESS)
}
