//! `kdc-agent status`: the runs on this node.

use std::process::ExitCode;

use kdc_agent::{run, serve::Places, wire::Outcome};

use super::{Output, show};

/// List them, oldest first.
pub(super) fn show_status(output: Output) -> anyhow::Result<ExitCode> {
    let runs = run::list(&Places::system().runs)?;
    match output {
        Output::Json => show(&serde_json::to_string_pretty(&runs)?),
        Output::Text if runs.is_empty() => show("kdc did nothing on this node"),
        Output::Text => {
            for run in &runs {
                let force = if run.in_force { "in force" } else { "not in force" };
                show(&format!("{}  {}  {}  {force}", run.run, run.cluster, in_words(&run.outcome)));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Finished { changed, found } => {
            format!("finished: {changed} steps changed something, {found} were as wanted")
        }
        Outcome::Failed { step, failure } => {
            format!("failed at {step}: error[{}]: {failure}", failure.code)
        }
        Outcome::Undone { steps } => format!("undone: {steps} steps"),
        Outcome::Interrupted => "interrupted; `kdc-install apply` goes on".to_owned(),
        Outcome::Running { awaits: Some(value) } => format!("waits for `{value}`"),
        Outcome::Running { awaits: None } => "going on".to_owned(),
    }
}
