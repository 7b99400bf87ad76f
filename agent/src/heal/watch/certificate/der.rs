//! The few fields of an X.509 certificate that a watcher needs: who it is for, and from when to when.
//!
//! DER is a tree of tag, length, content. A certificate's outermost sequence holds what is signed
//! (RFC 5280, 4.1), and in there, after an optional version: serial number, algorithm, issuer,
//! validity, subject. Nothing is verified here: whether a certificate is trusted is for those who use
//! it, when it ends is on its face.

use jiff::civil::{Date, Time};
use kdc_profiles::moment;

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Face {
    /// Common name of the subject, or organisation where there is none; may be empty.
    pub(super) subject: String,
    /// First second in which it is valid, since 1970.
    pub(super) from: i64,
    /// Last second in which it is valid, since 1970.
    pub(super) until: i64,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// `commonName` and `organizationName` (2.5.4.3, 2.5.4.10).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];

/// Longest name that is told.
const MAX_NAME_BYTES: usize = 128;

/// Reads one element after the other.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            // Longer than four gigabytes is no certificate.
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if digits.is_empty() || digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next element, which must be of that kind.
    fn expect(&mut self, tag: u8) -> Option<Reader<'a>> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| Reader(content))
    }
}

/// Read a certificate in DER.
///
/// # Errors
/// What made no sense.
pub(super) fn parse(der: &[u8]) -> Result<Face, String> {
    let whole = Reader(der).expect(SEQUENCE).ok_or("it is no DER sequence")?;
    let mut signed = { whole }.expect(SEQUENCE).ok_or("what is signed is no DER sequence")?;
    if signed.0.first() == Some(&VERSION) {
        signed.next().ok_or("its version is cut off")?;
    }
    signed.expect(INTEGER).ok_or("it has no serial number")?;
    signed.expect(SEQUENCE).ok_or("it names no algorithm")?;
    signed.expect(SEQUENCE).ok_or("it names no issuer")?;
    let mut validity = signed.expect(SEQUENCE).ok_or("it has no validity")?;
    let mut time = || validity.next().and_then(|(tag, text)| parse_time(tag, text));
    let from = time().ok_or("its first day makes no sense")?;
    let until = time().ok_or("its last day makes no sense")?;
    let subject = signed.expect(SEQUENCE).ok_or("it names no subject")?;
    Ok(Face { subject: name_of(subject), from, until })
}

/// The common name in a subject, else its organisation.
fn name_of(subject: Reader<'_>) -> String {
    let named = |wanted: &[u8]| {
        let mut sets = subject;
        while let Some(mut attributes) = sets.expect(SET) {
            while let Some(mut attribute) = attributes.expect(SEQUENCE) {
                if attribute.expect(OBJECT)?.0 == wanted {
                    return attribute.next().map(|(_, text)| plain(text));
                }
            }
        }
        None
    };
    named(COMMON_NAME).or_else(|| named(ORGANISATION)).unwrap_or_default()
}

/// As it may be shown on a terminal.
fn plain(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_NAME_BYTES)]);
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`; two digits mean 1950 to 2049.
fn parse_time(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    let wanted = match tag {
        UTC_TIME => 12,
        GENERALIZED_TIME => 14,
        _ => return None,
    };
    if digits.len() != wanted || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let (year, rest) = digits.split_at(wanted - 10);
    let year = match (tag, number(year)) {
        (UTC_TIME, year) if year < 50 => 2000 + year,
        (UTC_TIME, year) => 1900 + year,
        (_, year) => year,
    };
    // Two digits each, and four at the most: none is lost.
    let part = |place: usize| i8::try_from(number(&rest[place * 2..place * 2 + 2])).ok();
    let date = Date::new(i16::try_from(year).ok()?, part(0)?, part(1)?).ok()?;
    let time = Time::new(part(2)?, part(3)?, part(4)?, 0).ok()?;
    Some(moment::unix_seconds(date.to_datetime(time)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One that says so and so, as rcgen writes it.
    fn made(name: &str, from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        if !name.is_empty() {
            parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        }
        parameters.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        parameters.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_who_it_is_for_and_from_when_to_when() {
        let face = parse(&made("kubernetes-admin", (2024, 2, 29), (2025, 2, 28))).unwrap();
        assert_eq!(face.subject, "kubernetes-admin");
        assert_eq!((face.from, face.until), (1_709_164_800, 1_740_700_800));
        // After 2049 the year has four digits, before 1950 too.
        let face = parse(&made("", (1975, 1, 1), (2124, 3, 1))).unwrap();
        assert_eq!(face.subject, "system:masters", "no common name");
        assert_eq!((face.from, face.until), (157_766_400, 4_864_924_800));
    }

    #[test]
    fn times_that_make_no_sense_are_no_times() {
        for (tag, text, wanted) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(-631_152_000)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "700100000000Z", None),
            (UTC_TIME, "700101240000Z", None),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "700101000000+0100", None),
            (GENERALIZED_TIME, "700101000000Z", None),
            (INTEGER, "700101000000Z", None),
        ] {
            assert_eq!(parse_time(tag, text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_anywhere_before_its_subject_is_refused() {
        let whole = made("x", (2024, 1, 1), (2025, 1, 1));
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{length} of {}", whole.len());
        }
    }

    proptest! {
        /// Whatever stands in the file: an answer or a refusal, never a panic.
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..200, to: u8) {
            let _either = parse(&bytes);
            let mut damaged = made("x", (2024, 1, 1), (2025, 1, 1));
            let place = at % damaged.len();
            damaged[place] = to;
            let _either = parse(&damaged);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (tag, text, wanted) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(-631_152_000)),
            (GENERALIZED_TIME, "20000229000000Z", Some(951_782_400)),
            (GENERALIZED_TIME, "21000301000000Z", Some(4_107_542_400)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (GENERALIZED_TIME, "21000229000000Z", None),
            (GENERALIZED_TIME, "20261301000000Z", None),
            (GENERALIZED_TIME, "20260100000000Z", None),
            (GENERALIZED_TIME, "20260101240000Z", None),
            (GENERALIZED_TIME, "20260101000060Z", None),
            (UTC_TIME, "20260101000000Z", None),
        ] {
            assert_eq!(parse_time(tag, text.as_bytes()), wanted, "{text}");
        }
    }
}
