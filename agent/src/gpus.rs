//! `kdc-agent gpus`, the child process behind it, and `kdc-agent facts`, which tells of GPUs too.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use kdc_agent::{
    facts::Look,
    gpu,
    host::SystemHost,
    inventory::{self, AskGpus},
    serve::{self, Places},
    step,
    wire::Failure,
};

use super::{Output, show, tell};

/// The GPUs of this node, for people or programs.
pub(super) fn show_gpus(output: Output, library: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let mut sources = gpu::node::Sources::machine();
    sources.settings.library = library;
    let gpus = gpu::node::node_gpus(&sources).map_err(|error| {
        Failure::from_error(error.code(), &error, Some(error.hint().to_owned()))
    })?;
    match output {
        Output::Json => show(&serde_json::to_string_pretty(&gpus)?),
        Output::Text => {
            show(&gpu::show::render(&gpus.report, &gpus.verdicts));
            gpus.warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How `gpu-survey` is called.
#[derive(Debug, clap::Args)]
pub(super) struct SurveyOptions {
    /// NVML, where the loader doesn't find it.
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// GPUs to leave out.
    #[arg(long, value_delimiter = ',')]
    skip: Vec<u32>,
    /// Sample at this interval, instead of reading everything once.
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    every_ms: Option<u64>,
}

/// Ask NVML and tell it in lines.
pub(super) fn survey_gpus(options: SurveyOptions) -> anyhow::Result<ExitCode> {
    let SurveyOptions { library, skip, every_ms } = options;
    let every = every_ms.map(std::time::Duration::from_millis);
    let question = &gpu::child::Question { library, skip: skip.into_iter().collect(), every };
    match gpu::child::answer(question, &mut std::io::stdout().lock()) {
        // Whoever asked is gone.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        told => told.map(|()| ExitCode::SUCCESS).context("no answer given"),
    }
}

/// How `gpu-instances` is called.
#[derive(Debug, clap::Args)]
pub(super) struct InstanceOptions {
    /// NVML, where the loader doesn't find it.
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// Make those that were written down for every boot (kdc-gpu-instances.service calls this).
    #[arg(long, conflicts_with = "library")]
    settle: bool,
}

/// Do as standard input asks, and tell what came of it; or make what was written down.
pub(super) fn instances(options: InstanceOptions) -> anyhow::Result<ExitCode> {
    if options.settle {
        step::gpu::settle_instances(&SystemHost::new(), &tell).map_err(|error| error.failure())?;
    } else {
        let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
        gpu::mig::answer(options.library, &mut input, &mut output).context("no answer given")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What this node is. `published`: what `kdc-gpu.service` wrote there is told of GPUs, and none is asked.
pub(super) fn show_facts(output: Output, published: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let ask = published.map_or(AskGpus::Library, AskGpus::Published);
    // Side by side: each waits for the kernel more than it computes.
    let (inventory, facts) = std::thread::scope(|threads| {
        let facts = threads.spawn(|| serve::node_facts(&Places::system()));
        (inventory::collect_asking(&Look::machine(), &ask), facts.join())
    });
    let facts = facts.map_err(|_| anyhow::anyhow!("the look at what the checks see was lost"))?;
    let report = inventory::Report::new(inventory, facts);
    match output {
        Output::Json => show(&serde_json::to_string_pretty(&report)?),
        Output::Text => show(&inventory::render_table(&report)),
    }
    Ok(ExitCode::SUCCESS)
}
