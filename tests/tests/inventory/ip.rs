//! Against `ip`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Against, list, plain, text, value};

pub(super) fn against_ip(inventory: &Value, links: &Value, routes: &[Value]) -> Against {
    let mut against = Against::new("ip");
    let network = &inventory["network"];
    let ours = list(&network["links"]);
    let theirs: BTreeMap<&str, &Value> =
        links.as_array().into_iter().flatten().map(|link| (text(&link["ifname"]), link)).collect();
    against.compare_sets(
        "links",
        ours.iter().map(|link| plain(&link["name"])).collect(),
        theirs.keys().map(|name| (*name).to_owned()).collect(),
    );
    for link in ours {
        let name = text(&link["name"]);
        let Some(other) = theirs.get(name) else { continue };
        let state = Value::from(plain(&other["operstate"]).to_lowercase());
        against.compare("state", name, value(link, "state"), &state);
        for (ours, theirs) in
            [("mac", "address"), ("mtu", "mtu"), ("master", "master"), ("permanentMac", "permaddr")]
        {
            // `ip` shows the permanent address only where it is another one.
            let same = theirs == "permaddr" && value(link, "permanentMac") == value(link, "mac");
            let own = if same { &Value::Null } else { value(link, ours) };
            against.compare(theirs, name, own, &other[theirs]);
        }
        let kind = &other["linkinfo"]["info_kind"];
        let own = match text(&link["kind"]) {
            "physical" | "loopback" | "virtual" => &Value::Null,
            _ => &link["kind"],
        };
        against.compare("kind", name, own, kind);
        let id = &other["linkinfo"]["info_data"]["id"];
        let own = &value(link, "vlan")["id"];
        if text(&link["kind"]) == "vlan" {
            against.compare("vlan", name, own, id);
        }
    }
    addresses(&mut against, network, &theirs);
    main_routes(&mut against, network, routes);
    against
}

fn addresses(against: &mut Against, network: &Value, theirs: &BTreeMap<&str, &Value>) {
    let addresses = list(&network["addresses"]).iter();
    let addresses = addresses.map(|own| {
        format!("{} {} {}", text(&own["link"]), text(&own["address"]), text(&own["scope"]))
    });
    let mut told = BTreeSet::new();
    for (name, link) in theirs {
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let length = &address["prefixlen"];
            let scope = text(&address["scope"]);
            told.insert(format!("{name} {}/{length} {scope}", text(&address["local"])));
        }
    }
    against.compare_sets("addresses", addresses.collect(), told);
}

/// Of the main table, which is the one that `ip` shows.
fn main_routes(against: &mut Against, network: &Value, routes: &[Value]) {
    let main = list(&network["routes"]).iter().filter(|route| route["table"] == 254);
    let main = main.filter(|route| text(&route["kind"]) == "unicast").map(|route| {
        let destination = text(&route["destination"]);
        // `ip` leaves away the length of a single address.
        let destination = destination.strip_suffix("/32").unwrap_or(destination);
        let destination = destination.strip_suffix("/128").unwrap_or(destination);
        let way = format!("via {} dev {}", plain(&route["gateway"]), plain(&route["link"]));
        format!("{destination} {way} metric {}", route["metric"])
    });
    let told = routes.iter().filter_map(Value::as_array).flatten();
    let told = told.filter(|route| matches!(text(&route["type"]), "" | "unicast")).map(|route| {
        let way = format!("via {} dev {}", plain(&route["gateway"]), plain(&route["dev"]));
        format!("{} {way} metric {}", text(&route["dst"]), route["metric"].as_u64().unwrap_or(0))
    });
    against.compare_sets("routes", main.collect(), told.collect());
}
