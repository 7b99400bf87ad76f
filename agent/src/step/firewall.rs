//! Packet filter rules as they stand, and putting them back.
//!
//! Kubernetes programs write rules through `iptables` (which on newer systems keeps them as nft
//! tables) and leave them behind. Before: every iptables table as text, and the names of all nft
//! tables. After: tables that were there get their text back, tables that were not are emptied
//! through iptables and deleted through nft.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::change::{Context, StepError};
use crate::host::{Host, HostError, Program};

/// The two address families of iptables: the program's stem.
const FAMILIES: &[&str] = &["iptables", "ip6tables"];

/// Rules as they stood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rules {
    /// By program stem: by table name: the lines between `*table` and `COMMIT`, without counters.
    iptables: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// nft tables, `family name`; `None` where there is no nft.
    nft: Option<BTreeSet<String>>,
}

/// Output of a program if it is installed and ends well.
fn answer(host: &dyn Host, program: &Program) -> Result<Option<String>, StepError> {
    match host.run(program) {
        Ok(output) if output.good() => Ok(Some(output.text())),
        // A kernel without IPv6 or without these tables: nothing there to remember.
        Ok(_) => Ok(None),
        Err(error) if error.is_missing_program() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Split the text of `iptables-save` into tables, without comments and counters.
fn parse_save(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            current = Some(name.to_owned());
            tables.entry(name.to_owned()).or_default();
        } else if line == "COMMIT" {
            current = None;
        } else if let Some(name) = current.as_ref().filter(|_| !line.starts_with('#'))
            && let Some(lines) = tables.get_mut(name)
        {
            let line = match line.strip_prefix(':') {
                Some(_) => line.split(" [").next().unwrap_or(line),
                None => line,
            };
            lines.push(line.to_owned());
        }
    }
    tables
}

/// The text for `iptables-restore` that makes a table these lines.
fn render_restore(tables: &BTreeMap<String, Vec<String>>) -> String {
    let mut text = String::new();
    for (name, lines) in tables {
        text.push_str(&format!("*{name}\n"));
        for line in lines {
            text.push_str(line);
            if line.starts_with(':') {
                text.push_str(" [0:0]");
            }
            text.push('\n');
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The chains a table has by itself, with an open policy and no rules.
fn emptied(lines: &[String]) -> Vec<String> {
    let built_in = |line: &&String| line.starts_with(':') && !line.ends_with(" -");
    let open = |line: &String| format!("{} ACCEPT", line.split(' ').next().unwrap_or(line));
    lines.iter().filter(built_in).map(open).collect()
}

/// Lines of `nft list tables`: `table ip nat`.
fn parse_tables(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("table "))
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Look at all rules.
pub(crate) fn look(host: &dyn Host) -> Result<Rules, StepError> {
    let mut rules = Rules::default();
    // nft first: listing through iptables may make empty tables.
    let nft = answer(host, &Program::new("nft").args(["list", "tables"]))?;
    rules.nft = nft.as_deref().map(parse_tables);
    for family in FAMILIES {
        if let Some(text) = answer(host, &Program::new(&format!("{family}-save")))? {
            rules.iptables.insert((*family).to_owned(), parse_save(&text));
        }
    }
    Ok(rules)
}

/// Put the rules back to `before`.
pub(crate) fn restore(context: &Context<'_>, before: &Rules) -> Result<(), StepError> {
    let host = context.host;
    let now = look(host)?;
    let none = BTreeMap::new();
    for (family, tables) in &now.iptables {
        let were = before.iptables.get(family).unwrap_or(&none);
        let wanted: BTreeMap<String, Vec<String>> = tables
            .iter()
            .map(|(name, lines)| {
                (name.clone(), were.get(name).cloned().unwrap_or_else(|| emptied(lines)))
            })
            .filter(|(name, lines)| tables.get(name) != Some(lines))
            .collect();
        if !wanted.is_empty() {
            let program =
                Program::new(&format!("{family}-restore")).with_input(render_restore(&wanted));
            host.run_checked(&program)?;
        }
    }
    if let (Some(were), Some(now)) = (&before.nft, &now.nft) {
        for table in now.difference(were) {
            let program = Program::new("nft").args(["delete", "table"]).args(table.split(' '));
            match host.run_checked(&program) {
                Ok(_) => {}
                Err(HostError::Failed { tail, .. }) if tail.contains("No such file") => {}
                Err(error) => return Err(error.into()),
            }
        }
    } else if before.nft.is_none() && now.iptables.values().any(|tables| !tables.is_empty()) {
        context.say("without `nft`, emptied packet filter tables stay until a reboot");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated\n*filter\n:INPUT DROP [3:180]\n:KUBE-X - [0:0]\n\
        -A INPUT -j KUBE-X\nCOMMIT\n# Completed\n";

    #[test]
    fn counters_and_comments_are_no_part_of_the_rules() {
        let tables = parse_save(SAVED);
        let expected = [":INPUT DROP", ":KUBE-X -", "-A INPUT -j KUBE-X"].map(str::to_owned);
        assert_eq!(tables.get("filter"), Some(&expected.to_vec()));
        let again = render_restore(&tables);
        assert_eq!(parse_save(&again), tables);
    }

    #[test]
    fn an_emptied_table_keeps_only_its_own_chains_open() {
        let lines = parse_save(SAVED).remove("filter").unwrap();
        assert_eq!(emptied(&lines), [":INPUT ACCEPT"]);
    }
}
