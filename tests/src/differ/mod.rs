//! The host differ: what is different on a server between two moments.
//!
//! ```no_run
//! use kdc_tests::differ::{Snapshot, diff};
//! # fn demo(server: &dyn kdc_tests::server::Server) -> anyhow::Result<()> {
//! let before = Snapshot::of(server)?;
//! server.exec(&["touch", "/etc/new"])?;
//! let found = diff(&before, &Snapshot::of(server)?);
//! assert_eq!(found[0].to_string(), "file /etc/new: new: regular 0644 0:0 sha256:e3b0c442…");
//! # Ok(())
//! # }
//! ```
//!
//! A snapshot is a flat table: kind and name of a thing, and its state as text. What is left out, and why, stands in
//! [`volatile`]; the list is short, since everything on it is a place where a leftover could hide.

mod snapshot;
pub mod volatile;

use std::collections::BTreeMap;
use std::fmt;

/// What a thing on a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A file, folder, symbolic link, socket or device node.
    File,
    /// An installed (or half-removed) package.
    Package,
    /// A unit file and whether it is enabled.
    UnitFile,
    /// A unit that isn't inactive.
    Unit,
    /// A kernel setting.
    Sysctl,
    /// A route or a routing rule.
    Route,
    /// A table, chain or rule of nftables or iptables.
    Rule,
    /// A network link or an address on it.
    Link,
    /// A mount.
    Mount,
    /// A swap area.
    Swap,
    /// A user.
    User,
    /// A group.
    Group,
    /// A loaded kernel module.
    Module,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Package => "package",
            Self::UnitFile => "unit file",
            Self::Unit => "unit",
            Self::Sysctl => "sysctl",
            Self::Route => "route",
            Self::Rule => "rule",
            Self::Link => "link",
            Self::Mount => "mount",
            Self::Swap => "swap",
            Self::User => "user",
            Self::Group => "group",
            Self::Module => "module",
        })
    }
}

/// A server at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    things: BTreeMap<(Kind, String), String>,
}

impl Snapshot {
    /// How many things it holds.
    pub fn len(&self) -> usize {
        self.things.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.things.is_empty()
    }

    /// The state of one thing.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&str> {
        self.things.get(&(kind, name.to_owned())).map(String::as_str)
    }

    fn put(&mut self, kind: Kind, name: impl Into<String>, state: impl Into<String>) {
        self.things.insert((kind, name.into()), state.into());
    }

    /// Counts a thing that has no name but its whole text.
    fn count(&mut self, kind: Kind, text: impl Into<String>) {
        let state = self.things.entry((kind, text.into())).or_default();
        *state = match state.strip_prefix('×').and_then(|n| n.parse::<u32>().ok()) {
            Some(n) => format!("×{}", n + 1),
            None => "×1".to_owned(),
        };
    }
}

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its state before; `None` where it is new.
    pub before: Option<String>,
    /// Its state after; `None` where it is gone.
    pub after: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.kind, self.name)?;
        match (&self.before, &self.after) {
            (None, Some(after)) => write!(f, "new: {after}"),
            (Some(before), None) => write!(f, "gone: {before}"),
            (before, after) => {
                let text = |state: &Option<String>| state.clone().unwrap_or_default();
                write!(f, "changed: {} -> {}", text(before), text(after))
            }
        }
    }
}

/// Everything that differs, by kind and name.
pub fn diff(before: &Snapshot, after: &Snapshot) -> Vec<Difference> {
    let names = before
        .things
        .keys()
        .chain(after.things.keys().filter(|key| !before.things.contains_key(*key)));
    let mut found: Vec<Difference> = names
        .filter_map(|key| {
            let (was, is) = (before.things.get(key), after.things.get(key));
            let (kind, name) = key.clone();
            (was != is).then(|| Difference { kind, name, before: was.cloned(), after: is.cloned() })
        })
        .filter(|difference| !follows_a_link(difference))
        .collect();
    found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    found
}

/// A link's own settings come and go with it: that link is named already.
fn follows_a_link(difference: &Difference) -> bool {
    let comes_or_goes = difference.before.is_none() || difference.after.is_none();
    let of_a_link =
        [".conf.", ".neigh.", "net.mpls.conf."].iter().any(|part| difference.name.contains(part));
    difference.kind == Kind::Sysctl && comes_or_goes && of_a_link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_gone_and_changed_things_are_found_and_equal_ones_are_not() {
        let (mut before, mut after) = (Snapshot::default(), Snapshot::default());
        before.put(Kind::File, "/same", "x");
        before.put(Kind::File, "/gone", "x");
        before.put(Kind::File, "/other", "x");
        before.put(Kind::Sysctl, "net.ipv4.conf.eth0.rp_filter", "0");
        after.put(Kind::File, "/same", "x");
        after.put(Kind::File, "/new", "x");
        after.put(Kind::File, "/other", "y");
        after.put(Kind::Sysctl, "net.ipv4.conf.eth0.rp_filter", "1");
        after.put(Kind::Sysctl, "net.ipv4.conf.cni0.rp_filter", "1");
        let found: Vec<_> = diff(&before, &after).iter().map(Difference::to_string).collect();
        assert_eq!(
            found,
            [
                "file /gone: gone: x",
                "file /new: new: x",
                "file /other: changed: x -> y",
                "sysctl net.ipv4.conf.eth0.rp_filter: changed: 0 -> 1",
            ]
        );
    }

    #[test]
    fn equal_lines_are_counted() {
        let (mut one, mut two) = (Snapshot::default(), Snapshot::default());
        one.count(Kind::Rule, "accept");
        two.count(Kind::Rule, "accept");
        two.count(Kind::Rule, "accept");
        assert_eq!(diff(&one, &two)[0].to_string(), "rule accept: changed: ×1 -> ×2");
    }
}
