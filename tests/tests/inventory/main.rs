//! The inventory against the tools that people trust, on this machine: every disagreement is listed, and one
//! that nobody has looked at fails.

mod ip;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use kdc_tests::{program::must, workspace};
use serde_json::Value;

/// Which of the two has no value, where a disagreement is fine only then.
#[derive(Clone, Copy)]
enum When {
    TheirsIsNothing,
    OursIsNothing,
    Always,
}

/// Disagreements that were looked at: tool, the start of the field, when, and why ours may stay as it is.
const REVIEWED: &[(&str, &str, When, &str)] = &[
    ("lsblk", "fstype", When::TheirsIsNothing, "lsblk asks udev alone; ours reads the device too"),
    ("lsblk", "serial", When::TheirsIsNothing, "lsblk asks udev alone; ours asks the driver too"),
    ("lsblk", "vendor", When::OursIsNothing, "virtio has a number there and no name"),
    ("lsblk", "tran", When::TheirsIsNothing, "lsblk of util-linux 2.38 knows fewer kinds"),
    ("lspci", "device name", When::OursIsNothing, "lspci writes `Device` for what has no name"),
    ("lspci", "vendor name", When::OursIsNothing, "lspci writes `Vendor` for what has no name"),
    (
        "lshw",
        "memory size",
        When::Always,
        "lshw adds up modules or blocks; ours is what the kernel manages",
    ),
    ("lshw", "machine", When::OursIsNothing, "lshw shows the placeholders that makers left"),
];

/// One field that two looks at the same thing show differently.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Disagreement {
    tool: &'static str,
    field: String,
    ours: String,
    theirs: String,
}

/// Collects disagreements with one tool.
struct Against {
    tool: &'static str,
    compared: usize,
    found: Vec<Disagreement>,
}

impl Against {
    fn new(tool: &'static str) -> Self {
        Self { tool, compared: 0, found: Vec::new() }
    }

    fn compare(&mut self, field: &str, of: &str, ours: &Value, theirs: &Value) {
        self.compared += 1;
        let (ours, theirs) = (plain(ours), plain(theirs));
        if ours != theirs {
            let field = format!("{field} of {of}");
            self.found.push(Disagreement { tool: self.tool, field, ours, theirs });
        }
    }

    fn compare_sets(&mut self, field: &str, ours: BTreeSet<String>, theirs: BTreeSet<String>) {
        self.compared += ours.len().max(theirs.len());
        for only in ours.symmetric_difference(&theirs) {
            let (here, there) =
                if ours.contains(only) { ("there", "not") } else { ("not", "there") };
            self.found.push(Disagreement {
                tool: self.tool,
                field: format!("{field}: {only}"),
                ours: here.to_owned(),
                theirs: there.to_owned(),
            });
        }
    }
}

/// What is empty, null or missing is none; the rest as text without blanks around it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The value of a found field; null where there is none.
fn value<'a>(owner: &'a Value, field: &str) -> &'a Value {
    &owner[field]["value"]
}

fn list(found: &Value) -> &[Value] {
    found["value"].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn tool(argv: &[&str]) -> Result<Value> {
    serde_json::from_str(&must(argv)?.stdout_text()).with_context(|| format!("{argv:?}"))
}

fn flat<'a>(nodes: &'a Value, into: &mut Vec<&'a Value>) {
    for node in nodes.as_array().into_iter().flatten() {
        into.push(node);
        flat(&node["children"], into);
    }
}

fn against_lsblk(inventory: &Value, theirs: &Value) -> Against {
    let mut against = Against::new("lsblk");
    let mut devices = Vec::new();
    flat(&theirs["blockdevices"], &mut devices);
    let by_name: BTreeMap<&str, &Value> =
        devices.into_iter().map(|device| (text(&device["kname"]), device)).collect();
    let is_disk = |device: &&Value| {
        text(&device["type"]) == "disk" && !text(&device["name"]).starts_with("zram")
    };
    let disks = list(&inventory["disks"]);
    against.compare_sets(
        "disks",
        disks.iter().map(|disk| text(&disk["name"]).to_owned()).collect(),
        by_name.values().copied().filter(is_disk).map(|disk| plain(&disk["kname"])).collect(),
    );
    for disk in disks {
        let name = text(&disk["name"]);
        let Some(other) = by_name.get(name) else { continue };
        for (ours, theirs) in [
            ("sizeBytes", "size"),
            ("logicalBlockBytes", "log-sec"),
            ("physicalBlockBytes", "phy-sec"),
            ("rotational", "rota"),
            ("removable", "rm"),
            ("readOnly", "ro"),
            ("vendor", "vendor"),
            ("model", "model"),
            ("serial", "serial"),
            ("wwn", "wwn"),
            ("transport", "tran"),
        ] {
            against.compare(theirs, name, value(disk, ours), &other[theirs]);
        }
        content(&mut against, name, disk, other);
        for part in list(&disk["partitions"]) {
            let name = text(&part["name"]);
            let other = by_name.get(name).copied().unwrap_or(&Value::Null);
            against.compare("size", name, value(part, "sizeBytes"), &other["size"]);
            content(&mut against, name, part, other);
        }
    }
    for volume in list(&inventory["volumes"]) {
        let name = text(&volume["name"]);
        let other = by_name.get(name).copied().unwrap_or(&Value::Null);
        against.compare("size", name, value(volume, "sizeBytes"), &other["size"]);
    }
    against
}

/// What a device holds and where it is mounted.
fn content(against: &mut Against, name: &str, ours: &Value, theirs: &Value) {
    let kinds = list(&ours["signatures"]).iter();
    let kinds = kinds.filter(|found| text(&found["usage"]) != "partitionTable");
    let kinds: Vec<&str> = kinds.map(|found| text(&found["kind"])).collect();
    against.compare("fstype", name, &Value::from(kinds), &theirs["fstype"]);
    let points: BTreeSet<String> = theirs["mountpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .map(plain)
        .filter(|point| !point.is_empty() && point != "[SWAP]")
        .collect();
    let points: Vec<String> = points.into_iter().collect();
    against.compare("mountpoints", name, value(ours, "mounts"), &Value::from(points));
}

/// `Intel Corporation [8086]` → the name, the number.
fn numbered(line: &str) -> (&str, &str) {
    let Some((name, number)) = line.rsplit_once(" [") else { return (line, "") };
    (name, number.trim_end_matches(']'))
}

fn against_lspci(inventory: &Value, theirs: &str) -> Against {
    let mut against = Against::new("lspci");
    let devices: BTreeMap<String, BTreeMap<&str, &str>> = theirs
        .split("\n\n")
        .map(|block| {
            let fields = block.lines().filter_map(|line| line.split_once(":\t"));
            fields.collect::<BTreeMap<_, _>>()
        })
        .filter_map(|fields| {
            let slot = *fields.get("Slot")?;
            // Without the domain where there is only one.
            let domain = if slot.matches(':').count() == 1 { "0000:" } else { "" };
            Some((format!("{domain}{slot}"), fields))
        })
        .collect();
    let ours = list(&inventory["pci"]);
    against.compare_sets(
        "devices",
        ours.iter().map(|device| plain(&device["address"])).collect(),
        devices.keys().cloned().collect(),
    );
    for device in ours {
        let address = text(&device["address"]);
        let Some(fields) = devices.get(address) else { continue };
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        let names = value(device, "names");
        for (ours, theirs) in [("vendor", "Vendor"), ("device", "Device"), ("class", "Class")] {
            let (name, number) = numbered(field(theirs));
            let own = plain(&device[ours]);
            let own = if ours == "class" { own.get(..4).unwrap_or_default() } else { &own };
            against.compare(theirs, address, &Value::from(own), &Value::from(number));
            against.compare(&format!("{ours} name"), address, &names[ours], &Value::from(name));
        }
        let driver = Value::from(field("Driver"));
        against.compare("Driver", address, value(device, "driver"), &driver);
        for (ours, theirs) in [("iommuGroup", "IOMMUGroup"), ("numaNode", "NUMANode")] {
            let theirs_value = Value::from(field(theirs));
            against.compare(theirs, address, value(device, ours), &theirs_value);
        }
    }
    against
}

fn against_lshw(inventory: &Value, theirs: &Value) -> Against {
    let mut against = Against::new("lshw");
    let root = if theirs.is_array() { theirs } else { &Value::from(vec![theirs.clone()]) };
    let mut nodes = Vec::new();
    flat(root, &mut nodes);
    let class = |wanted: &'static str| {
        let of_class = move |node: &&&Value| text(&node["class"]) == wanted;
        nodes.iter().filter(of_class).copied().collect::<Vec<_>>()
    };
    let machine = &inventory["machine"];
    if let Some(system) = class("system").first() {
        for (ours, field) in [("vendor", "vendor"), ("product", "product"), ("serial", "serial")] {
            against.compare(
                &format!("machine {field}"),
                "it",
                value(machine, ours),
                &system[field],
            );
        }
    }
    let memory = class("memory").into_iter().find(|node| text(&node["id"]).starts_with("memory"));
    if let Some(memory) = memory {
        let own = value(&inventory["memory"], "totalBytes");
        against.compare("memory size", "the machine", own, &memory["size"]);
    }
    let sockets: Vec<&Value> =
        class("processor").into_iter().filter(|node| node["disabled"] != true).collect();
    let cpu = &inventory["cpu"];
    against.compare("sockets", "the machine", value(cpu, "sockets"), &Value::from(sockets.len()));
    if let Some(first) = sockets.first() {
        against.compare("model", "the CPU", value(cpu, "model"), &first["product"]);
    }
    let ours = list(&inventory["network"]["links"]).iter();
    let ours: BTreeMap<&str, &Value> = ours.map(|link| (text(&link["name"]), link)).collect();
    for node in class("network") {
        let Some(link) = ours.get(text(&node["logicalname"])) else { continue };
        against.compare("link mac", text(&link["name"]), value(link, "mac"), &node["serial"]);
    }
    let ours = list(&inventory["disks"]).iter();
    let ours: BTreeMap<String, &Value> =
        ours.map(|disk| (format!("/dev/{}", text(&disk["name"])), disk)).collect();
    for node in class("disk") {
        let Some(disk) = ours.get(text(&node["logicalname"])) else { continue };
        let name = text(&disk["name"]);
        against.compare("disk size", name, value(disk, "sizeBytes"), &node["size"]);
        against.compare("disk serial", name, value(disk, "serial"), &node["serial"]);
    }
    against
}

fn reviewed(found: &Disagreement) -> Option<&'static str> {
    let fits = |when: When| match when {
        When::TheirsIsNothing => found.theirs.is_empty(),
        When::OursIsNothing => found.ours.is_empty(),
        When::Always => true,
    };
    REVIEWED
        .iter()
        .find(|(tool, field, when, _)| {
            *tool == found.tool && found.field.starts_with(field) && fits(*when)
        })
        .map(|(_, _, _, reason)| *reason)
}

#[test]
fn every_disagreement_with_other_tools_is_known_and_has_its_reason() -> Result<()> {
    let agent = workspace::built("kdc-agent")?.display().to_string();
    let report = tool(&[&agent, "facts", "--output", "json"])?;
    let ours = &report["inventory"];
    let routes = [tool(&["ip", "-j", "route"])?, tool(&["ip", "-j", "-6", "route"])?];
    let all = [
        against_lsblk(ours, &tool(&["lsblk", "-J", "-O", "-b"])?),
        against_lspci(ours, &must(&["lspci", "-vmmnnk"])?.stdout_text()),
        ip::against_ip(ours, &tool(&["ip", "-d", "-j", "addr"])?, &routes),
        against_lshw(ours, &tool(&["lshw", "-json", "-quiet"])?),
    ];
    let mut unknown = Vec::new();
    for against in all {
        ensure!(against.compared > 0, "nothing was compared with {}", against.tool);
        println!("{}: {} fields compared", against.tool, against.compared);
        for found in against.found {
            let reason = reviewed(&found);
            println!(
                "  {}: ours `{}`, theirs `{}` ({})",
                found.field,
                found.ours,
                found.theirs,
                reason.unwrap_or("NOT REVIEWED")
            );
            if reason.is_none() {
                unknown.push(found);
            }
        }
    }
    ensure!(unknown.is_empty(), "disagreements that nobody looked at: {unknown:#?}");
    Ok(())
}

#[test]
fn a_field_that_differs_is_a_disagreement_and_one_that_agrees_is_not() {
    let disk = |size: u64| {
        let found = |value: Value| serde_json::json!({"value": value, "source": "s"});
        serde_json::json!({"disks": found(serde_json::json!([{
            "name": "sda",
            "sizeBytes": found(size.into()),
            "rotational": found(true.into()),
        }]))})
    };
    let theirs = serde_json::json!({"blockdevices": [
        {"name": "sda", "kname": "sda", "type": "disk", "size": 10, "rota": true}
    ]});
    assert_eq!(against_lsblk(&disk(10), &theirs).found, []);
    let found = against_lsblk(&disk(11), &theirs).found;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].field, "size of sda");
    assert!(reviewed(&found[0]).is_none());
}
