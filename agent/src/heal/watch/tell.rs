//! The watchers' figures as metrics, under the names that node_exporter has where it has one.

use super::{Seen, clock::Kept, etcd::Etcd, service::Service};
use crate::{
    api::page::{Kind, Page},
    facts::Known,
};

/// Every state that systemd has for a unit.
const STATES: [&str; 5] = ["activating", "active", "deactivating", "failed", "inactive"];

pub(super) fn tell(page: &mut Page, seen: Option<&Seen>, services: Option<&[Service]>, steps: u64) {
    if let Some(seen) = seen {
        certificates(page, seen);
        if let Some(found) = &seen.etcd {
            etcd(page, found);
        }
        if let Known::Known(kept) = &seen.clock {
            clock(page, kept);
        }
    }
    let help = "Steps of the wall clock that were seen.";
    page.single("kdc_clock_steps_total", Kind::Counter, help, steps);
    units(page, services.unwrap_or_default());
}

fn certificates(page: &mut Page, seen: &Seen) {
    let name = "kdc_certificate_expiry_timestamp_seconds";
    page.family(name, Kind::Gauge, "When a certificate on this node ends, since unix epoch.");
    for one in &seen.certificates.found {
        let labels = [("path", one.path.as_str()), ("subject", one.subject.as_str())];
        page.sample(&labels, one.until as f64);
    }
    let help = "Files with certificates that could not be looked at.";
    let unread = seen.certificates.unreadable.len() + seen.certificates.left_out;
    page.single("kdc_certificates_unreadable", Kind::Gauge, help, unread);
}

fn etcd(page: &mut Page, etcd: &Etcd) {
    let mut gauge = |name, help, number: Option<u64>| {
        if let Some(number) = number {
            page.single(name, Kind::Gauge, help, number);
        }
    };
    let asked = etcd.asked.as_ref().and_then(Known::value);
    gauge("kdc_etcd_db_bytes", "Size of etcd's database.", etcd.size());
    let used = asked.and_then(|asked| asked.used_bytes);
    gauge("kdc_etcd_db_used_bytes", "What of etcd's database is in use.", used);
    gauge("kdc_etcd_quota_bytes", "What etcd's database may grow to.", Some(etcd.quota()));
    gauge("kdc_etcd_wal_bytes", "Size of etcd's log of changes.", etcd.wal_bytes);
    let leader = asked.and_then(|asked| asked.has_leader).map(u64::from);
    gauge("kdc_etcd_has_leader", "Whether etcd's cluster has a leader.", leader);
    let healthy = asked.map(|asked| u64::from(asked.complaint.is_none()));
    gauge("kdc_etcd_healthy", "Whether etcd calls itself healthy; an alarm makes it ill.", healthy);
    if let Some(writes) = asked.and_then(|asked| asked.writes.as_ref()) {
        let help = "Writes of etcd's log of changes to the disk.";
        page.single("kdc_etcd_wal_writes_total", Kind::Counter, help, writes.count);
        let help = "Seconds that these writes took.";
        page.single("kdc_etcd_wal_write_seconds_total", Kind::Counter, help, writes.sum_secs);
    }
}

fn clock(page: &mut Page, kept: &Kept) {
    let mut gauge = |name, help, number: f64| page.single(name, Kind::Gauge, help, number);
    let help = "Is clock synchronized to a reliable server (1 = yes, 0 = no).";
    gauge("node_timex_sync_status", help, f64::from(u8::from(kept.synchronised)));
    let help = "Time offset in between local system and reference clock.";
    gauge("node_timex_offset_seconds", help, kept.offset_secs);
    let help = "Maximum error in seconds.";
    gauge("node_timex_maxerror_seconds", help, kept.most_error_secs);
    let help = "Estimated error in seconds.";
    gauge("node_timex_estimated_error_seconds", help, kept.estimated_error_secs);
}

fn units(page: &mut Page, services: &[Service]) {
    page.family("node_systemd_unit_state", Kind::Gauge, "Systemd unit");
    for service in services {
        let kind = if service.one_shot { "oneshot" } else { "" };
        for state in STATES {
            let labels = [("name", service.unit.as_str()), ("state", state), ("type", kind)];
            page.sample(&labels, service.active == state);
        }
    }
    let name = "node_systemd_service_restart_total";
    page.family(name, Kind::Counter, "Service unit count of Restart triggers");
    for service in services {
        page.sample(&[("name", service.unit.as_str())], service.restarts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::page::Format,
        heal::watch::{
            certificate::{Certificate, Certificates},
            etcd::{Asked, Writes},
        },
    };

    fn seen() -> Seen {
        let certificate = Certificate {
            path: "/a.crt".to_owned(),
            subject: "x".to_owned(),
            from: 0,
            until: 1_800_000_000,
        };
        let asked = Asked {
            total_bytes: 100,
            used_bytes: Some(50),
            quota_bytes: None,
            has_leader: Some(false),
            complaint: None,
            writes: Some(Writes { count: 7, sum_secs: 0.5, most_within_secs: None }),
        };
        let kept = Kept {
            synchronised: true,
            offset_secs: -0.25,
            most_error_secs: 1.0,
            estimated_error_secs: 0.0,
        };
        Seen {
            certificates: Certificates { found: vec![certificate], ..Certificates::default() },
            etcd: Some(Etcd {
                data: "/var/lib/etcd".to_owned(),
                quota_bytes: 200,
                file_bytes: Known::Known(100),
                wal_bytes: None,
                asked: Some(Known::Known(asked)),
            }),
            clock: Known::Known(kept),
            owned: Known::Unknown("x".to_owned()),
        }
    }

    #[test]
    fn figures_have_names_that_people_know_and_what_nobody_saw_has_none() {
        let seen = seen();
        let service = Service {
            unit: "kubelet.service".to_owned(),
            active: "failed".to_owned(),
            restarts: 4,
            ..Service::default()
        };
        let page_of = |seen, services| {
            let mut page = Page::new(Format::Classic, String::new());
            tell(&mut page, seen, services, 2);
            page.finish()
        };
        let page = page_of(Some(&seen), Some(std::slice::from_ref(&service)));
        for line in [
            "kdc_certificate_expiry_timestamp_seconds{path=\"/a.crt\",subject=\"x\"} 1800000000",
            "kdc_etcd_db_used_bytes 50",
            "kdc_etcd_quota_bytes 200",
            "kdc_etcd_has_leader 0",
            "kdc_etcd_healthy 1",
            "kdc_etcd_wal_write_seconds_total 0.5",
            "node_timex_offset_seconds -0.25",
            "node_systemd_unit_state{name=\"kubelet.service\",state=\"failed\",type=\"\"} 1",
            "node_systemd_unit_state{name=\"kubelet.service\",state=\"active\",type=\"\"} 0",
            "node_systemd_service_restart_total{name=\"kubelet.service\"} 4",
            "kdc_clock_steps_total 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(!page.contains("kdc_etcd_wal_bytes"), "nobody saw it");
        let page = page_of(None, None);
        assert_eq!(page.lines().filter(|line| !line.starts_with('#')).count(), 1, "{page}");
    }
}
