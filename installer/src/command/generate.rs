//! `completions` and `man`: texts made from the command tree.

use std::path::PathBuf;

use clap_complete::Shell;

use super::{CommandError, tree};
use crate::show::{Complaint, Screen};

/// Print completions for a shell
///
/// bash:  kdc-install completions bash > /etc/bash_completion.d/kdc-install
/// zsh:   kdc-install completions zsh > "${fpath[1]}/_kdc-install"
/// fish:  kdc-install completions fish > ~/.config/fish/completions/kdc-install.fish
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, screen: &Screen) -> Result<(), Complaint> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut tree(), "kdc-install", &mut script);
        screen.raw(&String::from_utf8_lossy(&script));
        Ok(())
    }
}

/// Print the manual page, or write one page a command into a directory
///
/// Example: kdc-install man | man -l -
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Write `kdc-install.1`, `kdc-install-apply.1`… here
    directory: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self, screen: &Screen) -> Result<(), Complaint> {
        let Some(directory) = &self.directory else {
            let mut page = Vec::new();
            clap_mangen::Man::new(tree()).render(&mut page).map_err(CommandError::Output)?;
            screen.raw(&String::from_utf8_lossy(&page));
            return Ok(());
        };
        let wrong = |source| CommandError::Write { path: directory.clone(), source };
        fs_err::create_dir_all(directory).map_err(wrong)?;
        clap_mangen::generate_to(tree(), directory).map_err(wrong)?;
        screen.say(&format!("manual pages written to {}", directory.display()));
        Ok(())
    }
}
