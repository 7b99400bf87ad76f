//! Attributes in `/sys`: links and temperature sensors. Some ask the device, so they are read seldom.

use std::path::Path;

use crate::api::page::{Kind, Page};

/// Most links and sensors that are told.
const MOST: usize = 512;

/// A link's attributes as texts.
#[derive(Debug, Default)]
struct Link {
    device: String,
    texts: [String; 5],
    numbers: Vec<Option<u64>>,
    speed: Option<i64>,
}

/// Attributes of text, in the order of the labels.
const TEXTS: [&str; 5] = ["address", "broadcast", "duplex", "ifalias", "operstate"];

/// Attributes of numbers: file, name, kind.
const NUMBERS: &[(&str, &str, Kind)] = &[
    ("addr_assign_type", "address_assign_type", Kind::Gauge),
    ("carrier", "carrier", Kind::Gauge),
    ("carrier_changes", "carrier_changes_total", Kind::Counter),
    ("carrier_down_count", "carrier_down_changes_total", Kind::Counter),
    ("carrier_up_count", "carrier_up_changes_total", Kind::Counter),
    ("dev_id", "device_id", Kind::Gauge),
    ("dormant", "dormant", Kind::Gauge),
    ("flags", "flags", Kind::Gauge),
    ("ifindex", "iface_id", Kind::Gauge),
    ("iflink", "iface_link", Kind::Gauge),
    ("link_mode", "iface_link_mode", Kind::Gauge),
    ("mtu", "mtu_bytes", Kind::Gauge),
    ("name_assign_type", "name_assign_type", Kind::Gauge),
    ("netdev_group", "net_dev_group", Kind::Gauge),
    ("type", "protocol_type", Kind::Gauge),
    ("tx_queue_len", "transmit_queue_length", Kind::Gauge),
];

/// A temperature.
#[derive(Debug, PartialEq)]
struct Sensor {
    chip: String,
    sensor: String,
    celsius: f64,
}

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Devices {
    links: Vec<Link>,
    sensors: Vec<Sensor>,
}

fn text(path: &Path) -> Option<String> {
    Some(fs_err::read_to_string(path).ok()?.trim_end().to_owned())
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs_err::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.truncate(MOST);
    names
}

/// Decimal, or hexadecimal with `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

impl Devices {
    /// Read everything below `sys`.
    pub(super) fn look(sys: &Path) -> Self {
        let net = sys.join("class/net");
        let links = names(&net).into_iter().filter(|device| net.join(device).is_dir());
        let hwmon = sys.join("class/hwmon");
        let sensors = names(&hwmon).into_iter().flat_map(|chip| sensors(&hwmon.join(&chip), &chip));
        Self {
            links: links.map(|device| link(&net, device)).collect(),
            sensors: sensors.take(MOST).collect(),
        }
    }

    /// The families.
    pub(super) fn tell(&self, page: &mut Page) {
        for (place, (attribute, name, kind)) in NUMBERS.iter().enumerate() {
            let help = format!("Network device property: {attribute}.");
            page.family(&format!("node_network_{name}"), *kind, &help);
            for link in &self.links {
                if let Some(number) = link.numbers.get(place).copied().flatten() {
                    page.sample(&[("device", &link.device)], number);
                }
            }
        }
        let help = "Non-numeric data from /sys/class/net/<iface>, value is always 1.";
        page.family("node_network_info", Kind::Info, help);
        for Link { device, texts: [address, broadcast, duplex, alias, state], .. } in &self.links {
            let labels = [
                ("address", address.as_str()),
                ("broadcast", broadcast),
                ("device", device),
                ("duplex", duplex),
                ("ifalias", alias),
                ("operstate", state),
            ];
            page.sample(&labels, 1_u64);
        }
        page.family("node_network_speed_bytes", Kind::Gauge, "Network device property: speed.");
        for link in &self.links {
            if let Some(speed) = link.speed {
                page.sample(&[("device", &link.device)], speed as f64 * 125_000.0);
            }
        }
        let help = "Value is 1 if operstate is 'up', 0 otherwise.";
        page.family("node_network_up", Kind::Gauge, help);
        for link in &self.links {
            page.sample(&[("device", &link.device)], link.texts[4] == "up");
        }
        page.family("node_hwmon_temp_celsius", Kind::Gauge, "Hardware monitor for temperature.");
        for Sensor { chip, sensor, celsius } in &self.sensors {
            page.sample(&[("chip", chip), ("sensor", sensor)], *celsius);
        }
    }
}

fn link(net: &Path, device: String) -> Link {
    let of = |attribute: &str| text(&net.join(&device).join(attribute));
    let texts = TEXTS.map(|attribute| of(attribute).unwrap_or_default());
    let numbers = NUMBERS.iter().map(|(attribute, _, _)| number(&of(attribute)?)).collect();
    let speed = of("speed").and_then(|text| text.parse().ok());
    Link { device, texts, numbers, speed }
}

/// The name that node_exporter gives a chip: of the device behind it, else its own.
fn chip_name(folder: &Path, number: &str) -> String {
    let clean = |text: &str| -> String {
        let keep = |letter: char| {
            if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' }
        };
        text.chars().map(keep).collect()
    };
    if let Ok(device) = fs_err::canonicalize(folder.join("device")) {
        let part =
            |path: Option<&Path>| path?.file_name().map(|name| clean(&name.to_string_lossy()));
        if let (Some(device_name), Some(bus)) = (part(Some(&device)), part(device.parent())) {
            return format!("{bus}_{device_name}");
        }
    }
    text(&folder.join("name")).map_or_else(|| clean(number), |name| clean(&name))
}

fn sensors(folder: &Path, number: &str) -> Vec<Sensor> {
    let chip = chip_name(folder, number);
    let mut found = Vec::new();
    for name in names(folder) {
        let Some(sensor) = name.strip_suffix("_input").filter(|name| name.starts_with("temp"))
        else {
            continue;
        };
        let milli: Option<f64> = text(&folder.join(&name)).and_then(|text| text.parse().ok());
        if let Some(milli) = milli {
            let (chip, sensor) = (chip.clone(), sensor.to_owned());
            found.push(Sensor { chip, sensor, celsius: milli / 1000.0 });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::page::Format;

    #[test]
    fn links_and_sensors_of_a_recorded_machine_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        for (attribute, text) in [
            ("operstate", "up\n"),
            ("mtu", "1400\n"),
            ("flags", "0x1003\n"),
            ("speed", "-1\n"),
            ("ifalias", "a\"b\n"),
        ] {
            put(&format!("class/net/eth0/{attribute}"), text);
        }
        put("class/net/bonding_masters", "");
        put("class/hwmon/hwmon0/name", "k10temp\n");
        put("class/hwmon/hwmon0/temp1_input", "41500\n");
        put("class/hwmon/hwmon0/temp2_input", "nonsense\n");
        put("class/hwmon/hwmon0/fan1_input", "900\n");
        let mut page = Page::new(Format::Classic, String::new());
        Devices::look(folder.path()).tell(&mut page);
        let page = page.finish();
        for line in [
            "node_network_mtu_bytes{device=\"eth0\"} 1400",
            "node_network_flags{device=\"eth0\"} 4099",
            "node_network_speed_bytes{device=\"eth0\"} -125000",
            "node_network_up{device=\"eth0\"} 1",
            "node_hwmon_temp_celsius{chip=\"k10temp\",sensor=\"temp1\"} 41.5",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(page.contains("ifalias=\"a\\\"b\",operstate=\"up\"} 1"), "{page}");
        assert!(!page.contains("bonding_masters") && !page.contains("temp2"), "{page}");
    }
}
