//! `license issue`: sign a licence.

use std::{collections::BTreeMap, path::PathBuf};

use kdc_agent::license::{
    License, Timestamp,
    document::{CountRule, Grant, KNOWN_RULES, LicenseKind, Overage, Window},
    envelope::{self, Purpose},
};
use kdc_profiles::cluster::Role;

use super::{KeyArguments, LicenseCommandError, Shown, now, write_new};
use crate::show::Screen;

/// Sign a licence
///
/// The file goes to the customer and is no secret. A customer's next licence replaces the last one by its
/// serial, which is this moment unless --serial says otherwise. No file is ever overwritten.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install license issue --key vendor.key --customer 'Example GmbH' --max-nodes 3 --days 365 \\\n    \
      -o license.json\n  \
    kdc-install license issue --key vendor.key --customer 'Example GmbH' --max-nodes 50 --days 365 \\\n    \
      --feature gpu-sharing --feature vms=200 --overage-percent 10 --overage-days 30 \\\n    \
      --supersedes lic-2026-001 -o license.json")]
pub(super) struct Issue {
    #[command(flatten)]
    key: KeyArguments,
    /// Whom it is for
    #[arg(long, value_name = "NAME")]
    customer: String,
    /// Nodes that may be enrolled [default: any number]
    #[arg(long, value_name = "N")]
    max_nodes: Option<u32>,
    /// It ends so many days after it begins
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    #[arg(required_unless_present = "perpetual", conflicts_with = "perpetual")]
    days: Option<u32>,
    /// It has no end
    #[arg(long)]
    perpetual: bool,
    /// Write the licence here
    #[arg(short = 'o', long = "save", value_name = "FILE")]
    save: PathBuf,
    /// What kind it is, for people: trial, subscription, internal [default: subscription]
    #[arg(long = "type", value_name = "TYPE", value_parser = kind, conflicts_with = "perpetual")]
    kind: Option<LicenseKind>,
    /// Its name [default: made of the date and chance]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Higher replaces lower [default: seconds since 1970]
    #[arg(long, value_name = "N")]
    serial: Option<u64>,
    /// It begins then (`2027-01-01`, UTC) [default: now]
    #[arg(long, value_name = "DAY", value_parser = moment)]
    not_before: Option<Timestamp>,
    /// Days after the end in which new nodes are let in still
    #[arg(long, value_name = "D", default_value_t = 14)]
    grace_days: u16,
    /// GPUs in the nodes that count [default: any number]
    #[arg(long, value_name = "N")]
    max_gpus: Option<u32>,
    #[command(flatten)]
    more: More,
}

/// What most licences don't say.
#[derive(Debug, clap::Args)]
struct More {
    /// A paid component by name, or `NAME=N` for so many of it; repeat it for more
    #[arg(long = "feature", value_name = "NAME[=N]", value_parser = feature)]
    features: Vec<(String, Grant)>,
    /// Nodes over the limit are let in: so many percent of it…
    #[arg(long, value_name = "P", default_value_t = 0)]
    overage_percent: u16,
    /// …or so many nodes, whichever is more…
    #[arg(long, value_name = "N", default_value_t = 0)]
    overage_nodes: u32,
    /// …for so many days [default: as long as the licence lasts]
    #[arg(long, value_name = "D")]
    overage_days: Option<u16>,
    /// Count only nodes of this role; repeat it for more [default: all nodes]
    #[arg(long = "count-role", value_name = "ROLE", value_parser = role)]
    roles: Vec<Role>,
    /// Only this cluster, by the UID of its namespace kube-system; repeat it for more
    #[arg(long = "cluster", value_name = "UID")]
    clusters: Vec<String>,
    /// It replaces this licence, whatever its serial; repeat it for more
    #[arg(long, value_name = "ID")]
    supersedes: Vec<String>,
    /// Whoever doesn't know this rule must refuse the licence; repeat it for more
    #[arg(long = "crit", value_name = "RULE", value_parser = rule)]
    rules: Vec<String>,
}

impl Issue {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), LicenseCommandError> {
        let license = self.license(now());
        license.check().map_err(LicenseCommandError::Terms)?;
        let key = self.key.open()?;
        let payload = license.to_payload().expect("a licence serialises");
        let signature = key.sign_bytes(&Purpose::License.signed_bytes(&payload));
        write_new(&self.save, &envelope::render(key.id(), &payload, &signature))?;
        let id = key.id().to_string();
        let shown = Shown::of(&self.save, true, &id, &license);
        screen.document(&shown, || shown.render());
        Ok(())
    }

    fn license(&self, now: Timestamp) -> License {
        let not_before = self.not_before.unwrap_or(now);
        let usual = if self.perpetual { LicenseKind::Perpetual } else { LicenseKind::Subscription };
        let chance = || format!("lic-{}-{:08x}", now.day(), rand::random::<u32>());
        let more = &self.more;
        License {
            id: self.id.clone().unwrap_or_else(chance),
            serial: self.serial.unwrap_or_else(|| u64::try_from(now.unix()).unwrap_or(0)),
            kind: self.kind.unwrap_or(usual),
            customer: self.customer.clone(),
            issued_at: now,
            not_before,
            expires_at: self.days.map(|days| not_before.plus_days(i64::from(days))),
            grace_days: self.grace_days,
            max_nodes: self.max_nodes,
            max_gpus: self.max_gpus,
            overage: Overage {
                percent: more.overage_percent,
                nodes: more.overage_nodes,
                days: more.overage_days,
            },
            count: CountRule {
                roles: more.roles.iter().copied().collect(),
                window: Window::default(),
            },
            features: more.features.iter().cloned().collect::<BTreeMap<_, _>>(),
            cluster_ids: more.clusters.clone(),
            supersedes: more.supersedes.clone(),
            crit: more.rules.clone(),
        }
    }
}

fn kind(text: &str) -> Result<LicenseKind, String> {
    let kinds = LicenseKind::ALL.into_iter().filter(|kind| *kind != LicenseKind::Perpetual);
    let words: Vec<&str> = kinds.clone().map(LicenseKind::as_str).collect();
    let found = kinds.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| format!("one of {}", words.join(", ")))
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let as_day = || Timestamp::parse(&format!("{text}T00:00:00Z"));
    let wrong = || "a day as `2027-01-01`, or a moment as `2027-01-01T00:00:00Z`".to_owned();
    Timestamp::parse(text).or_else(as_day).ok_or_else(wrong)
}

fn feature(text: &str) -> Result<(String, Grant), String> {
    let (name, grant) = match text.split_once('=') {
        None => (text, Grant::Allowed(true)),
        Some((name, "no")) => (name, Grant::Allowed(false)),
        Some((name, count)) => {
            let count = count.parse().map_err(|_| "a number after `=`, or `no`".to_owned())?;
            (name, Grant::Limit(count))
        }
    };
    let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(is_fit) {
        return Err("a name of lower-case letters, digits and `-`".to_owned());
    }
    Ok((name.to_owned(), grant))
}

fn role(text: &str) -> Result<Role, String> {
    let roles = [Role::ControlPlane, Role::Worker];
    let found = roles.into_iter().find(|role| role.as_str() == text);
    found.ok_or_else(|| "`control-plane` or `worker`".to_owned())
}

fn rule(text: &str) -> Result<String, String> {
    let known = KNOWN_RULES.contains(&text);
    known.then(|| text.to_owned()).ok_or_else(|| format!("one of {}", KNOWN_RULES.join(", ")))
}
