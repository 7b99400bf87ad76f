//! `init`: a commented cluster file to start from.

use std::path::PathBuf;

use kdc_profiles::cluster::{self, Role, Template, TemplateNode};

use super::{CommandError, arguments::cluster_name, hosts::Host, report::write_private};
use crate::show::{Complaint, Screen};

/// Write a commented cluster file; asks for the addresses if none are given
///
/// Every setting is in the file, with its default and what it is for.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install init\n  \
    kdc-install init --control-plane root@10.0.0.11 --worker root@10.0.0.12 -f site.yaml")]
pub(crate) struct Init {
    /// Where to write it
    #[arg(short, long, value_name = "FILE", default_value = "cluster.yaml")]
    pub(crate) file: PathBuf,
    /// Name of the cluster
    #[arg(long, default_value = "kdc", value_name = "NAME", value_parser = cluster_name)]
    pub(crate) name: String,
    /// Profile: `single` or `cluster` [default: by the number of nodes]
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Option<String>,
    /// Control plane, `[user@]address[:port]`
    #[arg(long, value_name = "HOST")]
    pub(crate) control_plane: Option<String>,
    /// Worker, `[user@]address[:port]`; repeat it for more
    #[arg(long = "worker", value_name = "HOST", requires = "control_plane")]
    pub(crate) workers: Vec<String>,
    /// Overwrite a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

impl Init {
    pub(crate) fn run(&self, screen: &Screen) -> Result<(), Complaint> {
        if self.file.exists() && !self.force {
            return Err(CommandError::InTheWay { path: self.file.clone() }.into());
        }
        let (control_plane, workers) = self.hosts(screen);
        let mut nodes: Vec<TemplateNode> = Vec::new();
        if let Some(text) = control_plane {
            nodes.push(Host::parse(&text)?.template("cp1", Role::ControlPlane));
        }
        for (number, text) in workers.iter().enumerate() {
            let name = format!("w{}", number + 1);
            nodes.push(Host::parse(text)?.template(&name, Role::Worker));
        }
        let usual = if nodes.len() > 1 { "cluster" } else { "single" };
        let profile = self.profile.clone().unwrap_or_else(|| usual.to_owned());
        let text = cluster::template(&Template { name: self.name.clone(), profile, nodes });
        write_private(&self.file, text.as_bytes(), 0o644)?;
        screen.say(&format!(
            "written: {}; look through it, then `kdc-install check -f {0}`",
            self.file.display()
        ));
        Ok(())
    }

    /// The hosts named; where none is and somebody can be asked, the answers.
    fn hosts(&self, screen: &Screen) -> (Option<String>, Vec<String>) {
        if self.control_plane.is_some() || !self.workers.is_empty() {
            return (self.control_plane.clone(), self.workers.clone());
        }
        let ask = |question: &str| screen.ask(question).filter(|answer| !answer.is_empty());
        let Some(first) = ask("Control plane ([user@]address; empty to fill in later):") else {
            return (None, Vec::new());
        };
        let workers = ask("Workers ([user@]address, several with blanks between; empty for none):");
        let workers = workers.unwrap_or_default();
        (Some(first), workers.split_whitespace().map(str::to_owned).collect())
    }
}
