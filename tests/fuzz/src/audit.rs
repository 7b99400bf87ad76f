//! The readers of audit logs: exports, lines, heads, keys.

use kdc_agent::audit::{
    Head,
    chain::Walk,
    export,
    key::{NamedKey, parse_keys, render_keys},
};
use sha2::{Digest as _, Sha256};

/// The one export that the key of the corpus signed.
const SIGNED: &[u8] = include_bytes!("../corpus/audit/seed");

/// An export, its lines, heads and keys: what verifies is what was signed, whatever else the bytes are. Lines get digests that
/// fit, or nothing would get past them.
pub fn audit(data: &[u8]) {
    let keys = parse_keys(include_str!("../audit-keys.pub")).unwrap();
    if let Ok(verdicts) = export::verify(data, &keys, &mut |_, _| {}) {
        let good = verdicts.iter().all(|verdict| verdict.findings.is_good());
        let signed = data.len().is_multiple_of(SIGNED.len())
            && data.chunks(SIGNED.len()).all(|section| section == SIGNED);
        assert_eq!(good, signed, "only what was signed is good");
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(named) = parse_keys(text)
        && named.iter().all(|NamedKey { node, .. }| !node.starts_with('#'))
    {
        assert_eq!(parse_keys(&render_keys(&named)), Ok(named));
    }
    if let Ok(head) = Head::parse(data) {
        assert!(head.signer().is_some());
    }
    let _ = export::parse_heads(data);
    walk(data);
}

/// Lines without their digests.
fn walk(data: &[u8]) {
    let mut whole = Vec::new();
    let mut ends = 0;
    for bare in data.split_inclusive(|byte| *byte == b'\n') {
        match bare.strip_suffix(b"}\n") {
            Some(open) => {
                let sum = hex(&Sha256::digest([open, b"}"].concat()));
                whole.extend([open, format!(",\"sum\":\"{sum}\"}}\n").as_bytes()].concat());
            }
            None => whole.extend(bare),
        }
        ends += usize::from(bare.ends_with(b"\n"));
    }
    let mut told = 0;
    let mut walk = Walk::default();
    let taken = walk.feed(&whole, &mut |_| told += 1);
    let findings = walk.finish(whole.len() - taken);
    assert_eq!(findings.lines, told);
    assert!(findings.lines <= ends as u64 && findings.problems.len() <= 200);
    let bad = findings.problems.len() as u64 + findings.untold;
    assert!(bad > 0 || findings.lines == ends as u64, "a line that is no line is told");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
