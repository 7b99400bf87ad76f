//! Where etcd is on a node, how large its files are, and what it says of itself.

use std::net::SocketAddr;

use super::{Asked, DEFAULT_QUOTA_BYTES, Etcd, Writes};
use crate::{
    facts::{Known, Look},
    heal::watch::loopback,
};

/// Kubeadm's static pod, with its flags.
const MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";

/// Data folders of RKE2 and K3s, whose file `config` has the flags.
const VENDORS: [&str; 2] =
    ["/var/lib/rancher/rke2/server/db/etcd", "/var/lib/rancher/k3s/server/db/etcd"];

/// Kubeadm's data folder, and that of a service of its own.
const DATA: &str = "/var/lib/etcd";

/// Most files of the log of changes.
const MAX_WAL_FILES: usize = 1024;

/// Etcd on this node; nothing where there is none.
pub(super) fn read(look: &Look) -> Option<Etcd> {
    let (mut etcd, address) = find(look)?;
    let database = format!("{}/member/snap/db", etcd.data);
    etcd.file_bytes = match fs_err::metadata(look.path(&database)) {
        Ok(data) => Known::Known(data.len()),
        Err(error) => Known::Unknown(error.to_string()),
    };
    etcd.wal_bytes = wal_bytes(look, &format!("{}/member/wal", etcd.data));
    etcd.asked = address.map(|address| match ask(address) {
        Ok(asked) => Known::Known(asked),
        Err(reason) => Known::Unknown(reason),
    });
    Some(etcd)
}

/// Its folder, quota and address for metrics, from the flags that it was started with.
fn find(look: &Look) -> Option<(Etcd, Option<SocketAddr>)> {
    let vendor = VENDORS.iter().find(|folder| look.exists(&format!("{folder}/member")));
    let flags = match vendor {
        Some(folder) => format!("{folder}/config"),
        None if look.exists(MANIFEST) => MANIFEST.to_owned(),
        None if look.exists(&format!("{DATA}/member")) => String::new(),
        None => return None,
    };
    let text = if flags.is_empty() { Ok(String::new()) } else { look.text(&flags) };
    let text = text.unwrap_or_default();
    let data = vendor.map(|folder| (*folder).to_owned());
    let data = data.or_else(|| flag(&text, "data-dir")).unwrap_or_else(|| DATA.to_owned());
    let quota = flag(&text, "quota-backend-bytes").and_then(|text| text.parse::<u64>().ok());
    let etcd = Etcd {
        data,
        // Nought means the default to etcd too.
        quota_bytes: quota.filter(|bytes| *bytes > 0).unwrap_or(DEFAULT_QUOTA_BYTES),
        file_bytes: Known::Unknown("nobody has looked".to_owned()),
        wal_bytes: None,
        asked: None,
    };
    let urls = flag(&text, "listen-metrics-urls").unwrap_or_default();
    Some((etcd, address_of(&urls)))
}

/// The value of a flag in a manifest (`- --name=value`) or a configuration file (`name: value`).
fn flag(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("- ").trim_matches(['"', '\'']);
        let line = line.strip_prefix("--").unwrap_or(line);
        let value = line.strip_prefix(name)?.strip_prefix(['=', ':'])?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    })
}

/// The first address on loopback that speaks plain HTTP.
fn address_of(urls: &str) -> Option<SocketAddr> {
    urls.split(',').find_map(|url| {
        let rest = url.trim().strip_prefix("http://")?;
        let address: SocketAddr = rest.split('/').next()?.parse().ok()?;
        address.ip().is_loopback().then_some(address)
    })
}

fn wal_bytes(look: &Look, folder: &str) -> Option<u64> {
    let entries = fs_err::read_dir(look.path(folder)).ok()?;
    let sizes = entries.take(MAX_WAL_FILES).map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    sizes.sum()
}

fn ask(address: SocketAddr) -> Result<Asked, String> {
    let page = loopback::ask(address, "/metrics")?;
    let health = loopback::ask(address, "/health")?;
    let mut asked = parse_metrics(&page)?;
    asked.complaint = parse_health(&health)?;
    Ok(asked)
}

/// The figures in etcd's own metrics.
fn parse_metrics(page: &str) -> Result<Asked, String> {
    let number = |name: &str| {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)
    };
    // Beyond 2^53 no database of etcd's gets.
    let bytes = |name: &str| number(name).map(|number| number as u64);
    let total = bytes("etcd_mvcc_db_total_size_in_bytes")
        .ok_or("its metrics don't say how large its database is")?;
    Ok(Asked {
        total_bytes: total,
        used_bytes: bytes("etcd_mvcc_db_total_size_in_use_in_bytes"),
        quota_bytes: bytes("etcd_server_quota_backend_bytes").filter(|bytes| *bytes > 0),
        has_leader: number("etcd_server_has_leader").map(|number| number > 0.0),
        complaint: None,
        writes: writes(page),
    })
}

/// How long writes took to reach the disk, since etcd was started.
fn writes(page: &str) -> Option<Writes> {
    const NAME: &str = "etcd_disk_wal_fsync_duration_seconds";
    let rest = |line| str::strip_prefix(line, NAME);
    let number = |part: &str| {
        let found = page.lines().filter_map(rest).find_map(|line| line.strip_prefix(part));
        found?.trim().parse::<f64>().ok()
    };
    let (count, sum) = (number("_count ")?, number("_sum ")?);
    let buckets = page.lines().filter_map(rest).filter_map(|line| {
        let (limit, reached) = line.strip_prefix("_bucket{le=\"")?.split_once("\"}")?;
        Some((limit.parse::<f64>().ok()?, reached.trim().parse::<f64>().ok()?))
    });
    // Buckets are told from the smallest on.
    let mut most = buckets.filter(|(_, reached)| *reached >= count * 0.99);
    let within = most.next().map(|(limit, _)| limit).filter(|limit| limit.is_finite());
    Some(Writes { count: count as u64, sum_secs: sum, most_within_secs: within })
}

/// Why etcd calls itself ill; nothing where it does not.
fn parse_health(text: &str) -> Result<Option<String>, String> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|cause| format!("its word of its health makes no sense: {cause}"))?;
    // A word in some versions, a truth value in others.
    let good = value["health"] == "true" || value["health"] == true;
    let reason = value["reason"].as_str().unwrap_or_default();
    Ok((!good).then(|| match reason {
        "" => "it gives no reason".to_owned(),
        reason => reason.chars().take(200).filter(|letter| !letter.is_control()).collect(),
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::heal::watch::loopback::tests::serve;

    const PAGE: &str = "# HELP etcd_server_has_leader x\n# TYPE etcd_server_has_leader gauge\n\
        etcd_server_has_leader 1\netcd_mvcc_db_total_size_in_bytes 2.097152e+07\n\
        etcd_mvcc_db_total_size_in_use_in_bytes 1.5e+06\netcd_server_quota_backend_bytes 8e+09\n\
        etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 10\n\
        etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.128\"} 990\n\
        etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 1000\n\
        etcd_disk_wal_fsync_duration_seconds_sum 12.5\netcd_disk_wal_fsync_duration_seconds_count 1000\n";

    fn put(root: &std::path::Path, path: &str, text: &str) {
        let place = root.join(path);
        fs_err::create_dir_all(place.parent().unwrap()).unwrap();
        fs_err::write(place, text).unwrap();
    }

    #[test]
    fn kubeadms_etcd_is_found_by_its_manifest_and_asked_on_loopback() {
        let answer = |body: &str| format!("HTTP/1.0 200 OK\r\n\r\n{body}");
        let ill = "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}";
        let address = serve(vec![("/metrics", answer(PAGE)), ("/health", answer(ill))]);
        let root = tempfile::tempdir().unwrap();
        let manifest = format!(
            "spec:\n  containers:\n  - command:\n    - etcd\n    - --data-dir=/data/etcd\n    \
             - --listen-metrics-urls=https://127.0.0.1:1,http://10.0.0.1:2381,http://{address}\n    \
             - --quota-backend-bytes=4000000000\n"
        );
        put(root.path(), "etc/kubernetes/manifests/etcd.yaml", &manifest);
        put(root.path(), "data/etcd/member/snap/db", "12345");
        put(root.path(), "data/etcd/member/wal/0.wal", "123");
        put(root.path(), "data/etcd/member/wal/1.wal", "1234");
        let etcd = read(&Look::at(root.path())).unwrap();
        assert_eq!((etcd.data.as_str(), etcd.quota_bytes), ("/data/etcd", 4_000_000_000));
        assert_eq!((etcd.file_bytes, etcd.wal_bytes), (Known::Known(5), Some(7)));
        let Some(Known::Known(asked)) = etcd.asked else { panic!("{:?}", etcd.asked) };
        assert_eq!((asked.total_bytes, asked.used_bytes), (20_971_520, Some(1_500_000)));
        assert_eq!((asked.has_leader, asked.quota_bytes), (Some(true), Some(8_000_000_000)));
        assert_eq!(asked.complaint.as_deref(), Some("ALARM NOSPACE"));
        let writes = asked.writes.unwrap();
        assert_eq!((writes.count, writes.most_within_secs), (1000, Some(0.128)));
    }

    #[test]
    fn rke2s_and_k3s_are_found_by_their_folders_and_a_node_without_etcd_has_none() {
        let root = tempfile::tempdir().unwrap();
        let look = Look::at(root.path());
        assert_eq!(read(&look), None);
        put(root.path(), "var/lib/etcd/member/snap/db", "1");
        assert_eq!(read(&look).unwrap().quota_bytes, DEFAULT_QUOTA_BYTES);
        let folder = "var/lib/rancher/rke2/server/db/etcd";
        put(root.path(), &format!("{folder}/member/snap/db"), "1");
        put(
            root.path(),
            &format!("{folder}/config"),
            "data-dir: /x\nlisten-metrics-urls: http://127.0.0.1:1\nquota-backend-bytes: 6000000000\n",
        );
        let etcd = read(&look).unwrap();
        assert_eq!((etcd.data, etcd.quota_bytes), (format!("/{folder}"), 6_000_000_000));
        assert!(matches!(etcd.asked, Some(Known::Unknown(_))), "nobody answers there");
    }

    #[test]
    fn answers_that_make_no_sense_are_refused() {
        for page in
            ["", "etcd_mvcc_db_total_size_in_bytes x\n", "etcd_mvcc_db_total_size_in_bytes NaN\n"]
        {
            assert!(parse_metrics(page).is_err(), "{page}");
        }
        let least = parse_metrics("etcd_mvcc_db_total_size_in_bytes 1\n").unwrap();
        assert_eq!((least.used_bytes, least.has_leader, least.writes), (None, None, None));
        for (text, wanted) in [
            ("{\"health\":\"true\",\"reason\":\"\"}", Ok(None)),
            ("{\"health\":true}", Ok(None)),
            ("{\"health\":\"false\"}", Ok(Some("it gives no reason"))),
            ("{}", Ok(Some("it gives no reason"))),
            ("nonsense", Err(())),
        ] {
            let found = parse_health(text);
            assert_eq!(
                found.as_ref().map(|word| word.as_deref()).map_err(|_| ()),
                wanted,
                "{text}"
            );
        }
    }
}
