//! From when on something is warned of, and from when on it fails; drop-ins may say otherwise.
//!
//! ```yaml
//! watch:
//!   certificates: {warnDays: 30, failDays: 7, besides: [/etc/site/proxy.crt]}
//!   etcd: {warnPercent: 80, failPercent: 95}      # of its quota
//!   disks: {warnHours: 24}                        # foretold from the last six hours
//!   clock: {warnMs: 100, failMs: 1000}
//! ```

use kdc_profiles::{
    fields::{Fields, Place},
    problem::Problems,
};
use serde::{Deserialize, Serialize};

/// Most certificates besides those that are known.
const MOST_BESIDES: usize = 64;

/// From when on what is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Thresholds {
    /// Days before its end from which a certificate is warned of.
    pub certificate_warn_days: u64,
    /// Days before its end from which a certificate fails.
    pub certificate_fail_days: u64,
    /// Certificates to watch besides those of Kubernetes.
    pub certificates: Vec<String>,
    /// Share of its quota from which etcd's file is warned of.
    pub etcd_warn_percent: u64,
    /// Share of its quota from which it fails.
    pub etcd_fail_percent: u64,
    /// A disk that will be full within so many hours is warned of.
    pub disk_warn_hours: u64,
    /// Milliseconds from which a clock that is off is warned of.
    pub clock_warn_ms: u64,
    /// Milliseconds from which it fails.
    pub clock_fail_ms: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            certificate_warn_days: 30,
            certificate_fail_days: 7,
            certificates: Vec::new(),
            etcd_warn_percent: 80,
            etcd_fail_percent: 95,
            disk_warn_hours: 24,
            clock_warn_ms: 100,
            clock_fail_ms: 1000,
        }
    }
}

impl Thresholds {
    /// Take what `watch` in a file says over what earlier files said; mistakes are noted.
    pub fn take(&mut self, place: &Place<'_>, problems: &mut Problems) {
        let Some(mut fields) = place.fields(problems) else { return };
        if let Some(mut certificates) = map(&mut fields, "certificates", problems) {
            number(
                &mut self.certificate_warn_days,
                &mut certificates,
                ("warnDays", 1, 3650),
                problems,
            );
            number(
                &mut self.certificate_fail_days,
                &mut certificates,
                ("failDays", 0, 3650),
                problems,
            );
            if let Some(besides) = certificates.optional("besides") {
                self.take_besides(&besides, problems);
            }
            certificates.finish(problems);
        }
        if let Some(mut etcd) = map(&mut fields, "etcd", problems) {
            number(&mut self.etcd_warn_percent, &mut etcd, ("warnPercent", 1, 100), problems);
            number(&mut self.etcd_fail_percent, &mut etcd, ("failPercent", 1, 100), problems);
            etcd.finish(problems);
        }
        if let Some(mut disks) = map(&mut fields, "disks", problems) {
            number(&mut self.disk_warn_hours, &mut disks, ("warnHours", 0, 24 * 30), problems);
            disks.finish(problems);
        }
        if let Some(mut clock) = map(&mut fields, "clock", problems) {
            number(&mut self.clock_warn_ms, &mut clock, ("warnMs", 1, 3_600_000), problems);
            number(&mut self.clock_fail_ms, &mut clock, ("failMs", 1, 3_600_000), problems);
            clock.finish(problems);
        }
        fields.finish(problems);
    }

    fn take_besides(&mut self, place: &Place<'_>, problems: &mut Problems) {
        let Some(paths) = place.texts(problems) else { return };
        if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
            place.wrong(problems, format!("`{path}` is not absolute"), "paths from `/` on");
        } else if let Some(path) = paths.iter().find(|path| path.ends_with(".key")) {
            place.wrong(problems, format!("`{path}` is a key by its name"), "certificates");
        } else if paths.len() > MOST_BESIDES {
            let what = format!("there are {} of them", paths.len());
            place.wrong(problems, what, format!("at most {MOST_BESIDES}"));
        } else {
            self.certificates = paths;
        }
    }
}

fn map<'t>(
    fields: &mut Fields<'t>,
    name: &'static str,
    problems: &mut Problems,
) -> Option<Fields<'t>> {
    fields.optional(name)?.fields(problems)
}

fn number(
    to: &mut u64,
    fields: &mut Fields<'_>,
    (name, least, most): (&'static str, u64, u64),
    problems: &mut Problems,
) {
    let number = fields.optional(name).and_then(|place| place.number(problems, least, most));
    *to = number.unwrap_or(*to);
}

#[cfg(test)]
mod tests {
    use kdc_profiles::yaml;

    use super::*;

    fn of(texts: &[&str]) -> Result<Thresholds, String> {
        let mut thresholds = Thresholds::default();
        for text in texts {
            let mut problems = Problems::new("agent.yaml");
            if let Some(tree) = yaml::parse(text, &mut problems) {
                thresholds.take(&Place::root(&tree), &mut problems);
            }
            problems.finish(Some(())).map_err(|problems| problems.to_string())?;
        }
        Ok(thresholds)
    }

    #[test]
    fn later_files_change_only_what_they_name() {
        let thresholds = of(&[
            "certificates: {warnDays: 60, besides: [/a.crt]}\netcd: {failPercent: 90}\n",
            "certificates: {failDays: 1}\nclock: {warnMs: 5, failMs: 6}\ndisks: {warnHours: 0}\n",
        ])
        .unwrap();
        assert_eq!((thresholds.certificate_warn_days, thresholds.certificate_fail_days), (60, 1));
        assert_eq!((thresholds.etcd_warn_percent, thresholds.etcd_fail_percent), (80, 90));
        assert_eq!((thresholds.clock_warn_ms, thresholds.clock_fail_ms), (5, 6));
        assert_eq!(
            (thresholds.disk_warn_hours, thresholds.certificates),
            (0, vec!["/a.crt".to_owned()])
        );
    }

    #[test]
    fn mistakes_are_told_with_line_and_field() {
        for (text, part) in [
            ("certificates: {warnDays: 0}", "certificates.warnDays"),
            ("etcd: {warnPercent: 101}", "etcd.warnPercent"),
            ("certificates: {besides: [a.crt]}", "`a.crt` is not absolute"),
            ("certificates: {besides: [/a.key]}", "`/a.key` is a key by its name"),
            ("disk: {warnHours: 1}", "expected `disks`"),
            ("clock: 5", "clock"),
        ] {
            let error = of(&[text]).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
