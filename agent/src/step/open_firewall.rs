//! `OpenFirewall`: through the firewall the host already has; none is put up.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::change::{Change, Context, StepError};
use crate::host::{Host, HostError, Output, Program};

/// Ports that the host's own firewall lets in.
pub(crate) struct OpenFirewall<'a> {
    pub(crate) ports: &'a [String],
}

/// A firewall kdc knows to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Firewall {
    Ufw,
    Firewalld,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    firewall: Option<Firewall>,
    /// Those of the wanted ports that were let in already.
    open: BTreeSet<String>,
}

/// Output of a program that may not be installed.
fn if_installed(host: &dyn Host, program: &Program) -> Result<Option<Output>, HostError> {
    match host.run(program) {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.is_missing_program() => Ok(None),
        Err(error) => Err(error),
    }
}

fn firewall_cmd<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Program {
    Program::new("firewall-cmd").args(arguments)
}

fn look(host: &dyn Host) -> Result<(Option<Firewall>, BTreeSet<String>), StepError> {
    let ufw = if_installed(host, &Program::new("ufw").arg("status"))?;
    if let Some(output) = ufw.filter(|output| output.text().contains("Status: active")) {
        return Ok((Some(Firewall::Ufw), parse_ufw(&output.text())));
    }
    let state = if_installed(host, &firewall_cmd(["--state"]))?;
    if state.is_some_and(|output| output.good()) {
        let text = host.run_checked(&firewall_cmd(["--permanent", "--list-ports"]))?.text();
        let open = text.split_whitespace().map(str::to_owned).collect();
        return Ok((Some(Firewall::Firewalld), open));
    }
    Ok((None, BTreeSet::new()))
}

/// Ports allowed from anywhere: `6443/tcp  ALLOW  Anywhere`.
fn parse_ufw(text: &str) -> BTreeSet<String> {
    let open = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"ALLOW") && fields.get(2) == Some(&"Anywhere"))
            .then(|| fields[0].to_owned())
    };
    text.lines().filter_map(open).collect()
}

impl OpenFirewall<'_> {
    fn change(
        host: &dyn Host,
        firewall: Firewall,
        port: &str,
        open: bool,
    ) -> Result<(), StepError> {
        match firewall {
            Firewall::Ufw => {
                let program = Program::new("ufw");
                let program = if open { program } else { program.args(["--force", "delete"]) };
                host.run_checked(&program.args(["allow", port]))?;
            }
            Firewall::Firewalld => {
                let verb = if open { "--add-port" } else { "--remove-port" };
                let option = format!("{verb}={port}");
                host.run_checked(&firewall_cmd(["--permanent", &option]))?;
                host.run_checked(&firewall_cmd([option.as_str()]))?;
            }
        }
        Ok(())
    }
}

impl Change for OpenFirewall<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let (firewall, mut open) = look(context.host)?;
        open.retain(|port| self.ports.contains(port));
        Ok(Before { firewall, open })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.firewall.is_none() || self.ports.iter().all(|port| before.open.contains(port))
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let Some(firewall) = before.firewall else { return Ok(()) };
        for port in self.ports.iter().filter(|port| !before.open.contains(*port)) {
            Self::change(context.host, firewall, port, true)?;
        }
        Ok(())
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let Some(firewall) = before.firewall else { return Ok(()) };
        let (now, open) = look(context.host)?;
        if now != before.firewall {
            context.say("the firewall that was opened is not active; its rules stay");
            return Ok(());
        }
        for port in self.ports.iter().filter(|port| !before.open.contains(*port)) {
            if open.contains(port) {
                Self::change(context.host, firewall, port, false)?;
            }
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!("let in {}", self.ports.join(", "))
    }

    fn detail(&self, before: &Before) -> String {
        let closed: Vec<&str> = self
            .ports
            .iter()
            .filter(|port| !before.open.contains(*port))
            .map(String::as_str)
            .collect();
        let name = match before.firewall {
            Some(Firewall::Ufw) => "ufw",
            Some(Firewall::Firewalld) => "firewalld",
            None => "the firewall",
        };
        format!("lets in {} through {name}", closed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_open_to_all_count_as_open() {
        let text = "Status: active\n\nTo   Action  From\n--  ------  ----\n\
            22/tcp   ALLOW   Anywhere\n6443/tcp  ALLOW  10.0.0.0/8\n80/tcp DENY Anywhere\n\
            22/tcp (v6)  ALLOW  Anywhere (v6)\n";
        assert_eq!(parse_ufw(text), BTreeSet::from(["22/tcp".to_owned()]));
    }
}
