//! containerd's configuration as text: where the `nvidia` runtime goes, without losing a foreign line.
//!
//! containerd reads its main file, then every file that `imports` names. Before 2.1 a later file's plugin
//! table *replaces* an earlier one whole, from 2.1 on they are merged. So where the main file imports
//! [`DROP_IN`], that file is ours and the main one is not touched: with the few lines that are ours, or, for an older
//! containerd, with a copy of the whole table that is in force. Where it is not imported, the main file is
//! edited, comments and order kept.

use toml_edit::{DocumentMut, Item, Table, TableLike, Value, value};

use crate::step::containerd::Version;

/// The file that is ours where the main one imports it: late in its folder, so that it is read last.
pub(crate) const DROP_IN: &str = "/etc/containerd/conf.d/99-kdc-nvidia.toml";

/// Name of the runtime, of its handler in Kubernetes, and of the RuntimeClass that names it.
pub(crate) const RUNTIME: &str = "nvidia";

/// The first containerd that merges imported plugin tables.
const MERGES: Version = (2, 1);

/// One file of the configuration, in the order in which containerd reads them.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    /// Where it lies.
    pub(crate) path: String,
    /// What is in it; empty for a drop-in that is not there yet.
    pub(crate) text: String,
}

/// What the configuration should say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The runtime's program.
    pub(crate) binary: &'a str,
    /// Pods that name no runtime get it too.
    pub(crate) default: bool,
    /// The containerd that reads it.
    pub(crate) containerd: Version,
}

/// What has to be written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Nothing: it says so already.
    AsWanted,
    /// This file gets this text.
    Write { path: String, text: String },
}

/// A configuration that is not touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("{path} is no TOML: {reason}")]
    Toml { path: String, reason: String },
    #[error("{path} has version {version} of containerd's configuration, which kdc does not edit")]
    Version { path: String, version: i64 },
    #[error("`{key}` in {path} is not a table")]
    Shape { path: String, key: String },
    #[error("{by} is read later and replaces what {path} says of the runtimes")]
    Overridden { path: String, by: String },
    #[error("{path} switches containerd's CRI plugin off")]
    Disabled { path: String },
}

impl Misfit {
    /// The next thing to try.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Toml { path, .. } | Self::Shape { path, .. } => {
                format!("mend {path}; `containerd config dump` shows what containerd makes of it")
            }
            Self::Version { .. } => {
                "bring every file to version 2 (containerd 1.x) or 3 (2.x): `containerd config \
                 migrate` prints the main file so"
                    .to_owned()
            }
            Self::Overridden { by, .. } => {
                format!("merge {by} into the main file, or give it a name before 99-")
            }
            Self::Disabled { path } => format!("take `cri` out of disabled_plugins in {path}"),
        }
    }
}

/// A file, read.
struct Read<'a> {
    path: &'a str,
    text: &'a str,
    document: DocumentMut,
}

fn read<'a>(file: &'a ConfigFile) -> Result<Read<'a>, Misfit> {
    let document = file.text.parse::<DocumentMut>().map_err(|error| Misfit::Toml {
        path: file.path.clone(),
        reason: error.to_string().trim_end().replace('\n', "; "),
    })?;
    Ok(Read { path: &file.path, text: &file.text, document })
}

/// What `imports` of a file names.
pub(crate) fn imports(file: &ConfigFile) -> Result<Vec<String>, Misfit> {
    let document = read(file)?.document;
    let list = document.get("imports").and_then(Item::as_array);
    Ok(list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The version of the format that a file has; one that says nothing has the first.
fn format_of(document: &DocumentMut) -> i64 {
    document.get("version").and_then(Item::as_integer).unwrap_or(1)
}

/// Name of the plugin whose table has the runtimes.
fn plugin_of(format: i64) -> Option<&'static str> {
    match format {
        1 => Some("cri"),
        2 => Some("io.containerd.grpc.v1.cri"),
        3 => Some("io.containerd.cri.v1.runtime"),
        _ => None,
    }
}

/// What lies under these keys.
fn find<'a>(document: &'a DocumentMut, keys: &[&str]) -> Option<&'a Item> {
    let mut item = document.as_item();
    for key in keys {
        item = item.as_table_like()?.get(key)?;
    }
    Some(item)
}

/// The table under these keys, made where it is missing.
fn descend<'a>(
    document: &'a mut DocumentMut,
    path: &str,
    keys: &[&str],
) -> Result<&'a mut dyn TableLike, Misfit> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in keys {
        if table.get(key).is_none_or(Item::is_none) {
            let mut made = Table::new();
            made.set_implicit(true);
            table.insert(key, Item::Table(made));
        }
        let shape = || Misfit::Shape { path: path.to_owned(), key: (*key).to_owned() };
        table = table.get_mut(key).and_then(Item::as_table_like_mut).ok_or_else(shape)?;
    }
    Ok(table)
}

/// The program of the runtime that the configuration names now, if it names one.
pub(crate) fn current_binary(
    files: &[ConfigFile],
    containerd: Version,
) -> Result<Option<String>, Misfit> {
    let reads = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let Some(plugin) = plugin_for(&reads, containerd)? else { return Ok(None) };
    let view = View { reads: &reads, plugin, merges: containerd >= MERGES };
    Ok(view.text(&["containerd", "runtimes", RUNTIME, "options", "BinaryName"]))
}

/// The plugin of the main file's format, once every file has that one; `None` where there is no file.
fn plugin_for(reads: &[Read<'_>], containerd: Version) -> Result<Option<&'static str>, Misfit> {
    let Some(main) = reads.first() else { return Ok(None) };
    let format = format_of(&main.document);
    let misfit = |read: &Read<'_>| Misfit::Version {
        path: read.path.to_owned(),
        version: format_of(&read.document),
    };
    // containerd 2.x reads the first no more, 1.x not yet the third.
    let reads_it = |format| match format {
        1 => containerd.0 < 2,
        2 => true,
        _ => containerd.0 >= 2,
    };
    let plugin = plugin_of(format).filter(|_| reads_it(format));
    let plugin = plugin.ok_or_else(|| misfit(main))?;
    let strange = |read: &&Read<'_>| {
        // A file without a version of its own goes by the main one.
        read.document.contains_key("version") && format_of(&read.document) != format
    };
    match reads.iter().find(strange) {
        Some(read) => Err(misfit(read)),
        None => Ok(Some(plugin)),
    }
}

/// Keys with plain values.
type Pairs = Vec<(String, Value)>;

/// What containerd makes of all files together.
struct View<'a> {
    reads: &'a [Read<'a>],
    plugin: &'a str,
    merges: bool,
}

impl View<'_> {
    /// Files that have the plugin's table, the one in force last.
    fn holders(&self) -> impl DoubleEndedIterator<Item = &Read<'_>> {
        let has = |read: &&Read<'_>| find(&read.document, &["plugins", self.plugin]).is_some();
        self.reads.iter().filter(has)
    }

    /// What is in force under these keys of the plugin.
    fn find(&self, keys: &[&str]) -> Option<&Item> {
        let whole: Vec<&str> =
            ["plugins", self.plugin].into_iter().chain(keys.iter().copied()).collect();
        let seen = if self.merges { usize::MAX } else { 1 };
        self.holders().rev().take(seen).find_map(|read| find(&read.document, &whole))
    }

    fn text(&self, keys: &[&str]) -> Option<String> {
        self.find(keys).and_then(Item::as_str).map(str::to_owned)
    }

    /// It says all that is wanted.
    fn says(&self, wanted: &Wanted<'_>) -> bool {
        let binary = self.text(&["containerd", "runtimes", RUNTIME, "options", "BinaryName"]);
        let default = self.text(&["containerd", "default_runtime_name"]);
        binary.as_deref() == Some(wanted.binary)
            && (!wanted.default || default.as_deref() == Some(RUNTIME))
            && !self.lacks_cdi(wanted.containerd)
    }

    /// CDI is off: 1.6 has none, 1.7 has it off, 2.x has it on unless told otherwise.
    fn lacks_cdi(&self, containerd: Version) -> bool {
        let told = self.find(&["enable_cdi"]).and_then(Item::as_bool);
        match containerd {
            (0, _) | (1, 0..=6) => false,
            (1, _) => told != Some(true),
            _ => told == Some(false),
        }
    }

    /// What the runtime takes over from `runc`: its own values, and its options.
    fn like_runc(&self) -> (Pairs, Pairs) {
        let values = |keys: &[&str]| {
            let table = self.find(keys).and_then(Item::as_table_like);
            let pairs = table.into_iter().flat_map(|table| table.iter());
            let plain = pairs.filter_map(|(key, item)| {
                let mut value = item.as_value()?.clone();
                value.decor_mut().clear();
                (!value.is_inline_table()).then(|| (key.to_owned(), value))
            });
            plain.collect::<Vec<_>>()
        };
        let runc = ["containerd", "runtimes", "runc"];
        (values(&runc), values(&[runc.as_slice(), &["options"]].concat()))
    }
}

/// What has to be written so that `files`, the main one first, say what is wanted. `main` is where the main
/// one lies, or will.
pub(crate) fn plan(main: &str, files: &[ConfigFile], wanted: &Wanted<'_>) -> Result<Edit, Misfit> {
    let reads = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let format = if wanted.containerd.0 >= 2 { 3 } else { 2 };
    let Some(plugin) = plugin_for(&reads, wanted.containerd)? else {
        let mut document = DocumentMut::new();
        document.insert("version", value(format));
        let plugin = plugin_of(format).unwrap_or_default();
        let view = View { reads: &[], plugin, merges: false };
        add(&mut document, main, &view, wanted)?;
        let text = format!("{HEAD}{document}");
        return Ok(Edit::Write { path: main.to_owned(), text });
    };
    for read in &reads {
        let off = read.document.get("disabled_plugins").and_then(Item::as_array);
        let names = |value: &Value| {
            value.as_str().is_some_and(|name| name == "cri" || name.ends_with(plugin))
        };
        if off.is_some_and(|off| off.iter().any(names)) {
            return Err(Misfit::Disabled { path: read.path.to_owned() });
        }
    }
    let merges = wanted.containerd >= MERGES;
    let view = View { reads: &reads, plugin, merges };
    match reads.iter().position(|read| read.path == DROP_IN) {
        Some(at) => drop_in(&view, at, wanted),
        None if view.says(wanted) => Ok(Edit::AsWanted),
        None => in_place(&view, wanted),
    }
}

const HEAD: &str = "# Written by kdc. Undo puts back what was here.\n";

/// The drop-in at this place in the order.
fn drop_in(view: &View<'_>, at: usize, wanted: &Wanted<'_>) -> Result<Edit, Misfit> {
    let Some(ours) = view.reads.get(at) else { return Ok(Edit::AsWanted) };
    if ours.text.is_empty() && view.says(wanted) {
        return Ok(Edit::AsWanted);
    }
    let has_table = |read: &&Read<'_>| find(&read.document, &["plugins", view.plugin]).is_some();
    if let Some(later) = view.reads.iter().skip(at + 1).rfind(has_table) {
        let (path, by) = (DROP_IN.to_owned(), later.path.to_owned());
        return Err(Misfit::Overridden { path, by });
    }
    let others = View { reads: view.reads.get(..at).unwrap_or_default(), ..*view };
    let mut document = DocumentMut::new();
    let format = view.reads.first().map_or(2, |main| format_of(&main.document));
    document.insert("version", value(format));
    if !view.merges
        && let Some(base) = others.holders().next_back()
        && let Some(table) = find(&base.document, &["plugins", view.plugin])
    {
        descend(&mut document, DROP_IN, &["plugins"])?.insert(view.plugin, table.clone());
    }
    add(&mut document, DROP_IN, &others, wanted)?;
    let copied = if view.merges {
        ""
    } else {
        "# This containerd takes a plugin's table from the last file alone, so all of it stands here.\n"
    };
    let text = format!("{HEAD}{copied}{document}");
    if text == ours.text {
        return Ok(Edit::AsWanted);
    }
    Ok(Edit::Write { path: DROP_IN.to_owned(), text })
}

/// The main file, edited.
fn in_place(view: &View<'_>, wanted: &Wanted<'_>) -> Result<Edit, Misfit> {
    let Some(main) = view.reads.first() else { return Ok(Edit::AsWanted) };
    let last = view.holders().next_back();
    if let Some(last) = last.filter(|last| last.path != main.path) {
        let (path, by) = (main.path.to_owned(), last.path.to_owned());
        return Err(Misfit::Overridden { path, by });
    }
    let mut document = main.document.clone();
    add(&mut document, main.path, view, wanted)?;
    Ok(Edit::Write { path: main.path.to_owned(), text: document.to_string() })
}

/// Set a value, in the place and with the comment of an older one.
fn set(table: &mut dyn TableLike, key: &str, mut new: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        None => drop(table.insert(key, Item::Value(new))),
    }
}

/// Add the runtime to a file, given what is in force without it.
fn add(
    document: &mut DocumentMut,
    path: &str,
    view: &View<'_>,
    wanted: &Wanted<'_>,
) -> Result<(), Misfit> {
    let (own, options) = view.like_runc();
    if view.lacks_cdi(wanted.containerd) {
        set(descend(document, path, &["plugins", view.plugin])?, "enable_cdi", true.into());
    }
    let containerd = ["plugins", view.plugin, "containerd"];
    if wanted.default {
        set(descend(document, path, &containerd)?, "default_runtime_name", RUNTIME.into());
    }
    let runtimes = [containerd.as_slice(), &["runtimes"]].concat();
    if view.find(&["containerd", "runtimes"]).is_none() {
        // The first table of runtimes takes the place of the built-in one, which has runc.
        let table = descend(document, path, &[runtimes.as_slice(), &["runc"]].concat())?;
        table.insert("runtime_type", value("io.containerd.runc.v2"));
    }
    let ours = [runtimes.as_slice(), &[RUNTIME]].concat();
    if find(document, &ours).and_then(Item::as_table_like).is_some() {
        // Somebody's, whose program is gone: the rest of it stays theirs.
        let options = descend(document, path, &[ours.as_slice(), &["options"]].concat())?;
        set(options, "BinaryName", wanted.binary.into());
        return Ok(());
    }
    let mut runtime = Table::new();
    runtime.decor_mut().set_prefix("\n# The runtime for NVIDIA GPUs, added by kdc.\n");
    runtime.insert("runtime_type", value("io.containerd.runc.v2"));
    for (key, own) in own {
        runtime.insert(&key, Item::Value(own));
    }
    let mut table = Table::new();
    for (key, option) in options {
        table.insert(&key, Item::Value(option));
    }
    table.insert("BinaryName", value(wanted.binary));
    runtime.insert("options", Item::Table(table));
    descend(document, path, &runtimes)?.insert(RUNTIME, Item::Table(runtime));
    Ok(())
}

/// Does containerd's own dump of what it reads have the runtime with this program?
pub(crate) fn dump_has(dump: &str, binary: &str) -> bool {
    let Ok(document) = dump.parse::<DocumentMut>() else { return false };
    let Some(plugin) = plugin_of(format_of(&document)) else { return false };
    let keys = ["plugins", plugin, "containerd", "runtimes", RUNTIME, "options", "BinaryName"];
    find(&document, &keys).and_then(Item::as_str) == Some(binary)
}

#[cfg(test)]
#[path = "runtime_config_tests.rs"]
mod tests;
