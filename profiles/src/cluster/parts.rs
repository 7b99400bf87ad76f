//! The small grammars inside a cluster file: names, ports, host keys, labels, taints, endpoints.

use std::net::IpAddr;

/// Name of a node or cluster: what Kubernetes and DNS both take.
pub(super) fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Part of a label or taint after the `/`; values may be empty, keys may not.
fn is_qualified_part(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && edge(bytes.first())
        && edge(bytes.last())
}

/// `zone` or `example.com/zone`.
pub(super) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_dns_name(domain) && is_qualified_part(name),
        None => is_qualified_part(text),
    }
}

/// Value of a label; may be empty.
pub(super) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified_part(text)
}

/// `key=value:Effect` or `key:Effect`.
pub(super) fn is_taint(text: &str) -> bool {
    let Some((pair, effect)) = text.rsplit_once(':') else { return false };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute")
        && is_label_key(key)
        && is_label_value(value)
}

/// `SHA256:` and 43 base64 letters, or a public key line.
pub(super) fn is_host_key(text: &str) -> bool {
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    if let Some(print) = text.strip_prefix("SHA256:") {
        return print.len() == 43 && print.bytes().all(base64);
    }
    let mut words = text.split(' ');
    let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let known = ["ssh-ed25519", "ssh-rsa"].contains(&kind)
        || kind.starts_with("ecdsa-sha2-nistp")
        || kind.starts_with("sk-");
    known
        && blob.starts_with("AAAA")
        && blob.len() >= 40
        && blob.trim_end_matches('=').bytes().all(base64)
}

/// Host and port of `host:port` or `[v6]:port`.
pub(super) fn endpoint(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    let good = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.parse::<std::net::Ipv4Addr>().is_ok() || is_host_name(host),
    };
    good.then_some((host, port))
}

/// A name that a resolver takes and that is not a broken address.
fn is_host_name(text: &str) -> bool {
    let address_like = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    !address_like && is_dns_name(&text.to_lowercase())
}

/// `[user@]host[:port]`.
pub(super) fn is_jump(text: &str) -> bool {
    let (user, host) = text.rsplit_once('@').unwrap_or(("x", text));
    let named = !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_graphic());
    let bare = host.parse::<IpAddr>().is_ok() || is_host_name(host);
    named && (bare || endpoint(host).is_some())
}

/// Cluster DNS domain.
pub(super) fn is_domain(text: &str) -> bool {
    is_dns_name(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_grammar_takes_the_good_and_refuses_the_bad() {
        type Judge = fn(&str) -> bool;
        let print = format!("SHA256:{}", "a".repeat(43));
        let line = format!("ssh-ed25519 AAAA{} root@x", "C".repeat(64));
        let table: &[(&str, Judge, &[&str], &[&str])] = &[
            ("name", is_dns_label, &["cp1", "a-b"], &["", "Cp1", "-a", "a.b", "a_b"]),
            (
                "label key",
                is_label_key,
                &["zone", "example.com/Zone_1"],
                &["", "/x", "a b", "a/b/c"],
            ),
            ("label value", is_label_value, &["", "x.y"], &["a b", "-x"]),
            (
                "taint",
                is_taint,
                &["a=b:NoSchedule", "example.com/a:NoExecute"],
                &["a=b", "a=b:Never", "=b:NoSchedule"],
            ),
            ("host key", is_host_key, &[&print, &line], &["SHA256:abc", "MD5:aa", "ssh-ed25519 x"]),
            (
                "endpoint",
                |text| endpoint(text).is_some(),
                &["10.0.0.1:6443", "api.example.com:443", "[fd00::1]:6443"],
                &["10.0.0.1", "10.0.0:1", "a:0", "a:70000", ":1"],
            ),
            ("jump", is_jump, &["ops@10.0.0.1:22", "gate"], &["@gate", "gate:x", "a b"]),
        ];
        for (what, judge, good, bad) in table {
            for text in *good {
                assert!(judge(text), "{what}: `{text}` is good");
            }
            for text in *bad {
                assert!(!judge(text), "{what}: `{text}` is bad");
            }
        }
    }
}
