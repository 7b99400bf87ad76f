//! Licences that the tests' key signed: a debug build takes them, a release build refuses them.
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use kdc_agent::license::{
    License, Timestamp,
    document::{CountRule, LicenseKind, Overage, Window},
    envelope::{Purpose, render},
};
use kdc_bundles::signing::SigningKey;
use kdc_tests::workspace;

pub fn now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_unix(i64::try_from(seconds).unwrap_or_default())
}

/// A licence `lic-SERIAL` in force from `days.0` to `days.1` days from now, by which too many nodes are told at once.
pub fn issue(serial: u64, nodes: u32, days: (i64, i64)) -> Result<String> {
    let key = workspace::checkout().join("tests/license/test.key");
    let key = SigningKey::load(&key, None)?;
    let (from, to) = (now().plus_days(days.0), now().plus_days(days.1));
    let window = Window { samples: 2, over_seconds: 1, ..Window::default() };
    let license = License {
        id: format!("lic-{serial}"),
        serial,
        kind: LicenseKind::Subscription,
        customer: "Example GmbH".to_owned(),
        issued_at: from,
        not_before: from,
        expires_at: Some(to),
        grace_days: 0,
        max_nodes: Some(nodes),
        max_gpus: None,
        overage: Overage::default(),
        count: CountRule { window, ..CountRule::default() },
        features: BTreeMap::new(),
        cluster_ids: Vec::new(),
        supersedes: Vec::new(),
        crit: Vec::new(),
    };
    let payload = license.to_payload()?;
    let signature = key.sign_bytes(&Purpose::License.signed_bytes(&payload));
    Ok(render(key.id(), &payload, &signature))
}
