//! What a profile asks of the checks. Every check runs and is shown whatever the profile says; the
//! ones it names must be ok: what would be a warning elsewhere is a refusal there.

use std::collections::BTreeSet;

use kdc_agent::check::{self, Finding, Verdict};
use kdc_profiles::profile::Profile;

use super::{PlanError, fleet_check};

/// Refuse a profile that names a check that there is not.
///
/// # Errors
/// [`PlanError::UnknownCheck`], for the first one.
pub fn known(profile: &Profile) -> Result<(), PlanError> {
    let node_checks = check::all().into_iter().map(|info| info.id);
    let ids: BTreeSet<&str> =
        node_checks.chain(fleet_check::CHECKS.iter().map(|(id, _)| *id)).collect();
    match profile.checks.iter().find(|name| !ids.contains(name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let profile = profile.name.clone();
            Err(PlanError::UnknownCheck { profile, check: name.clone() })
        }
    }
}

/// A finding as the profile takes it.
#[must_use]
pub fn as_asked(profile: &Profile, mut finding: Finding) -> Finding {
    if finding.verdict == Verdict::Warn && profile.checks.contains(&finding.id) {
        finding.verdict = Verdict::Fail;
        finding.detail =
            format!("{}; the profile `{}` asks that it be ok", finding.detail, profile.name);
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(checks: &[&str]) -> Profile {
        let mut profile = kdc_profiles::profile::shipped("cluster").expect("shipped");
        profile.checks = checks.iter().map(|&check| check.to_owned()).collect();
        profile
    }

    fn finding(id: &str, verdict: Verdict) -> Finding {
        let (id, title) = (id.to_owned(), "title".to_owned());
        Finding { id, title, verdict, detail: "seen".to_owned(), fix: None }
    }

    #[test]
    fn a_warning_of_a_check_that_the_profile_names_refuses_and_says_who_asks() {
        let profile = profile(&["default-route", "fleet-name"]);
        for (id, was, is) in [
            ("default-route", Verdict::Warn, Verdict::Fail),
            ("fleet-name", Verdict::Warn, Verdict::Fail),
            ("fleet-name", Verdict::Ok, Verdict::Ok),
            ("fleet-name", Verdict::Unknown, Verdict::Unknown),
            ("disk", Verdict::Warn, Verdict::Warn),
        ] {
            let asked = as_asked(&profile, finding(id, was));
            assert_eq!(asked.verdict, is, "{id}");
            assert_eq!(asked.detail.contains("profile `cluster`"), was != is, "{}", asked.detail);
        }
    }

    #[test]
    fn a_profile_can_name_every_check_there_is_and_no_other() {
        let mut ids: Vec<&str> = check::all().iter().map(|info| info.id).collect();
        ids.extend(fleet_check::CHECKS.iter().map(|(id, _)| *id));
        known(&profile(&ids)).expect("all are known");
        let error = known(&profile(&["swap", "swop"])).expect_err("a misspelt one");
        assert_eq!(
            error.to_string(),
            "profile `cluster` asks for the check `swop`, and there is none"
        );
        assert!(error.hint().is_some());
    }
}
