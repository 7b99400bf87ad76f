//! What a device plugin that starts now makes of the settings: the defaults, with each entry of its node laid over.
//!
//! HAMi lays them over with a library (mergo) that takes zero, `false` and an empty text for "not said", even where a
//! node's entry says so. Whoever reads only `config.json` sees a value that has no effect; so that is told here.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::object::{Object, same};

/// Every field of an entry that HAMi reads, with the type that its Go decoder insists on.
pub(super) const FIELDS: &[(&str, Type)] = &[
    ("name", Type::Text),
    ("operatingmode", Type::Text),
    ("devicememoryscaling", Type::Number),
    ("devicecorescaling", Type::Number),
    ("devicesplitcount", Type::Count),
    ("preconfigureddevicememory", Type::Whole),
    ("enablenumatopology", Type::Truth),
    ("libcudaloglevel", Type::Text),
    ("migstrategy", Type::Text),
    ("filterdevices", Type::Filter),
    ("enablegetpreferredallocation", Type::Truth),
];

/// What Go's decoder takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
    /// Whole, not below zero.
    Count,
    Whole,
    Truth,
    /// `uuid`: texts, `index`: counts.
    Filter,
}

impl Type {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Number => "a number",
            Self::Count => "a whole number from 0",
            Self::Whole => "a whole number",
            Self::Truth => "`true` or `false`",
            Self::Filter => "an object with `uuid` (texts) and `index` (whole numbers from 0)",
        }
    }

    /// Go's decoder takes it; `null` always, for "nothing".
    pub(super) fn takes(self, value: &Value) -> bool {
        let list = |value: &Value, of: Type| match value {
            Value::Null => true,
            Value::Array(list) => list.iter().all(|item| of.takes(item)),
            _ => false,
        };
        match (self, value) {
            (_, Value::Null) | (Self::Text, Value::String(_)) | (Self::Truth, Value::Bool(_)) => {
                true
            }
            (Self::Number, value) => value.is_number(),
            (Self::Count, value) => value.is_u64(),
            (Self::Whole, value) => value.is_i64() || value.is_u64(),
            (Self::Filter, Value::Object(filter)) => filter.iter().all(|(name, value)| {
                let uuids = !same(name, "uuid") || list(value, Self::Text);
                uuids && (!same(name, "index") || list(value, Self::Count))
            }),
            _ => false,
        }
    }
}

/// What holds where no entry says otherwise (`device-config.yaml`, section `nvidia`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Defaults {
    /// Resource that kubelet counts.
    pub resource_count_name: String,
    /// Pods that share one GPU.
    pub device_split_count: u64,
    /// Memory given away, as a multiple.
    pub device_memory_scaling: f64,
    /// Cores given away, as a multiple.
    pub device_core_scaling: f64,
    /// Kubelet hears NUMA nodes.
    pub enable_numa_topology: bool,
    /// Memory of GPUs that can't tell theirs, in MB.
    #[serde(rename = "preConfiguredDeviceMemory")]
    pub preconfigured_device_memory: i64,
    /// Models that can be cut, with their profiles.
    pub mig_profile_allowlist: Vec<Allowed>,
}

/// Models with the profiles that HAMi makes of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Allowed {
    /// Parts of models' names.
    #[serde(default)]
    pub models: Vec<String>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            resource_count_name: "nvidia.com/gpu".to_owned(),
            device_split_count: 10,
            device_memory_scaling: 1.0,
            device_core_scaling: 1.0,
            enable_numa_topology: false,
            preconfigured_device_memory: 0,
            mig_profile_allowlist: Vec::new(),
        }
    }
}

impl Defaults {
    /// Read the text under [`super::DEFAULTS_KEY`].
    ///
    /// # Errors
    /// What is wrong with it. The plugin does not start with such a text.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            nvidia: Defaults,
        }
        if text.len() > super::MAX_TEXT {
            return Err(format!("{} bytes; at most {} are read", text.len(), super::MAX_TEXT));
        }
        let file: File = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        Ok(file.nvidia)
    }
}

/// What a plugin that starts now works with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    /// `hami-core` or `mig`; as HAMi stores it, which may be neither.
    pub mode: String,
    /// Pods that share one GPU.
    pub split_count: u64,
    /// Memory given away, as a multiple.
    pub memory_scaling: f64,
    /// Cores given away, as a multiple.
    pub core_scaling: f64,
    /// Memory of GPUs that can't tell theirs, in MB.
    pub preconfigured_memory: i64,
    /// Kubelet hears NUMA nodes.
    pub numa_topology: bool,
    /// GPUs left out, by UUID.
    pub excluded_uuids: Vec<String>,
    /// GPUs left out, by index.
    pub excluded_indexes: Vec<u64>,
    /// An entry is there.
    pub has_entry: bool,
    /// What is written and has no effect, with the reason.
    pub without_effect: Vec<String>,
}

impl Effective {
    /// HAMi's own mode, in which split count and scaling count.
    #[must_use]
    pub fn shares(&self) -> bool {
        self.mode != "mig"
    }

    fn of(defaults: &Defaults) -> Self {
        Self {
            mode: "hami-core".to_owned(),
            split_count: defaults.device_split_count,
            memory_scaling: defaults.device_memory_scaling,
            core_scaling: defaults.device_core_scaling,
            preconfigured_memory: defaults.preconfigured_device_memory,
            numa_topology: defaults.enable_numa_topology,
            excluded_uuids: Vec::new(),
            excluded_indexes: Vec::new(),
            has_entry: false,
            without_effect: Vec::new(),
        }
    }

    fn lay_over(&mut self, entry: &Object) {
        self.has_entry = true;
        self.tell_zeros(entry);
        let number = |name: &str| {
            entry.value(name).and_then(|value| value.as_f64()).filter(|value| *value != 0.0)
        };
        let whole = |name: &str| {
            entry.value(name).and_then(|value| value.as_i64()).filter(|value| *value != 0)
        };
        if let Some(mode) = entry
            .value("operatingmode")
            .as_ref()
            .and_then(Value::as_str)
            .filter(|mode| !mode.is_empty())
        {
            mode.clone_into(&mut self.mode);
        }
        if let Some(count) = whole("devicesplitcount").and_then(|count| u64::try_from(count).ok()) {
            self.split_count = count;
        }
        self.memory_scaling = number("devicememoryscaling").unwrap_or(self.memory_scaling);
        self.core_scaling = number("devicecorescaling").unwrap_or(self.core_scaling);
        self.preconfigured_memory =
            whole("preconfigureddevicememory").unwrap_or(self.preconfigured_memory);
        self.numa_topology |= entry.value("enablenumatopology") == Some(Value::Bool(true));
        if let Some(Value::Object(filter)) = entry.value("filterdevices") {
            let list = |name: &str| {
                let found = filter.iter().rfind(|(known, _)| same(known, name));
                found.and_then(|(_, value)| value.as_array().cloned()).unwrap_or_default()
            };
            let (uuids, indexes) = (list("uuid"), list("index"));
            if !uuids.is_empty() || !indexes.is_empty() {
                self.excluded_uuids =
                    uuids.iter().filter_map(|uuid| Some(uuid.as_str()?.to_owned())).collect();
                self.excluded_indexes = indexes.iter().filter_map(Value::as_u64).collect();
            }
        }
    }

    /// What HAMi reads and then looks away from.
    fn tell_ignored(&mut self, entry: &Object) {
        let said = |name: &str| entry.value(name).filter(|value| !value.is_null());
        let strategy = said("migstrategy").filter(|value| *value != "none" && *value != "");
        if let Some(value) = strategy {
            self.without_effect.push(format!(
                "`migstrategy: {value}` does nothing: the plugin goes by its flag `--mig-strategy` (the chart's \
                 `devicePlugin.migStrategy`)"
            ));
        }
        if self.shares() {
            return;
        }
        for name in ["devicesplitcount", "devicememoryscaling", "devicecorescaling"] {
            if let Some(value) = said(name).filter(|value| value.as_f64() != Some(0.0)) {
                self.without_effect.push(format!("`{name}: {value}` does nothing in mode `mig`"));
            }
        }
    }

    /// Zeros and falses over something else.
    fn tell_zeros(&mut self, entry: &Object) {
        let zero = |value: &Value| value.as_f64() == Some(0.0) || *value == Value::Bool(false);
        let table = [
            ("devicesplitcount", self.split_count.to_string(), self.split_count != 0),
            ("devicememoryscaling", self.memory_scaling.to_string(), self.memory_scaling != 0.0),
            ("devicecorescaling", self.core_scaling.to_string(), self.core_scaling != 0.0),
            (
                "preconfigureddevicememory",
                self.preconfigured_memory.to_string(),
                self.preconfigured_memory != 0,
            ),
            ("enablenumatopology", self.numa_topology.to_string(), self.numa_topology),
        ];
        for (name, stays, differs) in table {
            if let Some(value) = entry.value(name).filter(zero).filter(|_| differs) {
                self.without_effect.push(format!(
                    "`{name}: {value}` can't take effect: HAMi takes it for not said, and {stays} stays"
                ));
            }
        }
    }
}

/// What a plugin on that node makes of `config.json` and the defaults. A text that it can't read has no effect at all.
#[must_use]
pub fn effective(config: Option<&str>, node: &str, defaults: &Defaults) -> Effective {
    let mut effective = Effective::of(defaults);
    let Some(text) = config else { return effective };
    match super::render::entries_of(text) {
        Err(why) => effective
            .without_effect
            .push(format!("HAMi reads nothing of {}: {why}", super::CONFIG_KEY)),
        Ok(entries) => return effective_of(&entries, node, defaults),
    }
    effective
}

/// The same, of entries that were read.
pub(super) fn effective_of(entries: &[Object], node: &str, defaults: &Defaults) -> Effective {
    let mut effective = Effective::of(defaults);
    let of_node =
        |entry: &&Object| entry.value("name").as_ref().and_then(Value::as_str) == Some(node);
    let entries: Vec<&Object> = entries.iter().filter(of_node).collect();
    entries.iter().for_each(|entry| effective.lay_over(entry));
    entries.iter().for_each(|entry| effective.tell_ignored(entry));
    effective
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_false_do_nothing_over_a_default_and_that_is_told() {
        let defaults = Defaults::parse(
            "nvidia:\n  deviceSplitCount: 10\n  enableNumaTopology: true\n  preConfiguredDeviceMemory: 4096\n",
        )
        .unwrap();
        let config = r#"{"nodeconfig":[{"name":"w1","devicesplitcount":0,"enablenumatopology":false,
            "preconfigureddevicememory":0,"devicememoryscaling":1.5},{"NAME":"w1","DeviceCoreScaling":2},
            {"name":"W1","devicesplitcount":99}]}"#;
        let effective = effective(Some(config), "w1", &defaults);
        assert_eq!((effective.split_count, effective.numa_topology), (10, true));
        assert_eq!(effective.preconfigured_memory, 4096);
        assert!(
            (effective.memory_scaling - 1.5).abs() < 1e-9
                && (effective.core_scaling - 2.0).abs() < 1e-9
        );
        assert_eq!(effective.without_effect.len(), 3, "{:?}", effective.without_effect);
        assert!(effective.without_effect[0].contains("`devicesplitcount: 0` can't take effect"));
    }

    #[test]
    fn what_hami_reads_and_looks_away_from_is_told() {
        let told = |entry: &str| {
            let text = format!(r#"{{"nodeconfig":[{{"name":"w1",{entry}}}]}}"#);
            effective(Some(&text), "w1", &Defaults::default()).without_effect.join("; ")
        };
        for (entry, words) in [
            (r#""migstrategy":"mixed""#, "--mig-strategy"),
            (r#""operatingmode":"mig","devicesplitcount":4"#, "`devicesplitcount: 4` does nothing"),
            (r#""operatingmode":"mig","devicememoryscaling":2"#, "in mode `mig`"),
        ] {
            assert!(told(entry).contains(words), "{entry}: {}", told(entry));
        }
        for entry in [
            r#""migstrategy":"none","devicesplitcount":4"#,
            r#""operatingmode":"mig","migstrategy":"""#,
            r#""operatingmode":"hami-core","devicesplitcount":4"#,
        ] {
            assert_eq!(told(entry), "", "{entry}");
        }
    }

    #[test]
    fn an_empty_filter_and_a_text_that_go_can_not_read_change_nothing() {
        let defaults = Defaults::default();
        for text in [
            r#"{"nodeconfig":[{"name":"w1","filterdevices":{"uuid":[],"index":[]}}]}"#,
            r#"{"nodeconfig":[{"name":"w2"}]}"#,
        ] {
            let effective = effective(Some(text), "w1", &defaults);
            assert!(effective.excluded_indexes.is_empty() && effective.split_count == 10);
        }
        for text in [
            "{",
            "[]",
            r#"{"nodeconfig":[{"name":"w1","libcudaloglevel":3,"devicesplitcount":4}]}"#,
        ] {
            let effective = effective(Some(text), "w1", &defaults);
            assert_eq!((effective.split_count, effective.without_effect.len()), (10, 1), "{text}");
        }
    }

    #[test]
    fn defaults_are_read_as_the_chart_writes_them() {
        let defaults =
            Defaults::parse(include_str!("../../../tests/fixtures/hami/device-config-2.10.yaml"))
                .unwrap();
        assert_eq!((defaults.device_split_count, defaults.enable_numa_topology), (10, false));
        assert_eq!(defaults.resource_count_name, "nvidia.com/gpu");
        assert!(
            defaults
                .mig_profile_allowlist
                .iter()
                .any(|allowed| allowed.models.iter().any(|m| m == "A30"))
        );
        assert!(Defaults::parse("nvidia: [").is_err());
    }
}
