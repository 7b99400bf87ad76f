//! Debian version numbers and their order, as Debian policy 5.6.12 defines it.

use std::cmp::Ordering;

/// Compares two versions: `[epoch:]upstream[-revision]`.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (split(left), split(right));
    left.0
        .cmp(&right.0)
        .then_with(|| compare_part(left.1, right.1))
        .then_with(|| compare_part(left.2, right.2))
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// Stretches of other characters and of digits take turns; digits count as numbers.
fn compare_part(mut left: &str, mut right: &str) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = cut(left, |byte| !byte.is_ascii_digit());
        let (right_text, right_rest) = cut(right, |byte| !byte.is_ascii_digit());
        let texts = compare_text(left_text.as_bytes(), right_text.as_bytes());
        let (left_digits, left_rest) = cut(left_rest, |byte| byte.is_ascii_digit());
        let (right_digits, right_rest) = cut(right_rest, |byte| byte.is_ascii_digit());
        let order = texts.then_with(|| compare_number(left_digits, right_digits));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn cut(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    // Every byte that ends a stretch is ASCII or stands at a character's start, or the text ends.
    let end = text.bytes().position(|byte| !belongs(byte)).unwrap_or(text.len());
    text.split_at(end)
}

/// `~` before the end, the end before letters, letters before the rest.
fn compare_text(left: &[u8], right: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(other) => i32::from(*other) + 256,
    };
    let length = left.len().max(right.len());
    (0..length)
        .map(|place| weight(left.get(place)).cmp(&weight(right.get(place))))
        .find(|order| *order != Ordering::Equal)
        .unwrap_or(Ordering::Equal)
}

fn compare_number(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ascending.
    const ORDERED: &[&str] = &[
        "~~",
        "~~a",
        "~",
        "0",
        "0.1~rc1-1",
        "0.1-1",
        "1.0~beta1~svn1245",
        "1.0~beta1",
        "1.0",
        "1.0-0.1",
        "1.0-1",
        "1.0-1+b1",
        "1.0-1+deb12u1",
        "1.0-1.1",
        "1.0-2",
        "1.0a",
        "1.0+b",
        "1.0.0",
        "1.2.3-1",
        "1.10",
        "1.10.0-1~bpo12+1",
        "1.10.0-1",
        "20240101",
        "1:0.1",
        "2:0",
    ];

    #[test]
    fn versions_are_ordered_as_policy_says() {
        for (place, left) in ORDERED.iter().enumerate() {
            for (other, right) in ORDERED.iter().enumerate() {
                assert_eq!(compare(left, right), place.cmp(&other), "{left} and {right}");
            }
        }
        for (left, right) in [("1.0", "0:1.0"), ("1.0-0", "1.0"), ("1.01", "1.1"), ("00.0", "0.0")]
        {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} and {right}");
        }
    }

    proptest! {
        #[test]
        fn any_texts_have_an_order_that_is_the_same_both_ways(left in ".{0,12}", right in ".{0,12}") {
            prop_assert_eq!(compare(&left, &right), compare(&right, &left).reverse());
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The reference, on versions as it accepts them.
        #[test]
        fn dpkg_agrees(left in "[0-9]([0-9a-c.+~]{0,6}(-[0-9a-b+~]{1,3})?)", right in "[0-9]([0-9a-c.+~]{0,6}(-[0-9a-b+~]{1,3})?)") {
            let says = |operator: &str| {
                std::process::Command::new("dpkg")
                    .args(["--compare-versions", &left, operator, &right])
                    .status()
                    .is_ok_and(|status| status.success())
            };
            let expected = if says("lt") { Ordering::Less } else if says("eq") { Ordering::Equal } else { Ordering::Greater };
            prop_assert_eq!(compare(&left, &right), expected);
        }
    }
}
