//! Sizes and shares on the command line: `4GiB`, `10%`.

use kdc_bundles::parts::Split;

/// How to split what a command writes, where it may.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct SplitArguments {
    /// Write parts, each smaller than SIZE: `4GiB` fits FAT32, `700MiB` a CD
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) split: Option<u64>,
    /// Add parts that rebuild any SHARE of all parts that is lost: `10%`
    #[arg(long, value_name = "SHARE", value_parser = parse_percent, requires = "split")]
    pub(super) parity: Option<u8>,
}

impl SplitArguments {
    /// How to split; nothing where no size was given.
    pub(super) fn chosen(self) -> Option<Split> {
        let parity_percent = self.parity.unwrap_or(0);
        self.split.map(|size| Split { size, parity_percent })
    }
}

/// `4GiB`, `700MiB`, `4GB`, `1000000`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("", 1),
    ];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| *factor);
    let size = number.parse::<u64>().ok().zip(factor).and_then(|(n, by)| n.checked_mul(by));
    size.filter(|size| *size > 0).ok_or_else(|| "write it as `4GiB`, `700MiB` or `4GB`".to_owned())
}

/// `10%` or `10`.
pub(super) fn parse_percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u8>().ok();
    number
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| "write it as `10%`, from 1% to 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_read_as_people_write_them() {
        let sizes = [
            ("4GiB", Some(4 << 30)),
            ("700 MiB", Some(700 << 20)),
            ("4GB", Some(4_000_000_000)),
            ("12", Some(12)),
            ("0", None),
            ("4gib", None),
            ("GiB", None),
            ("-1", None),
            ("99999999TiB", None),
        ];
        for (text, expected) in sizes {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
        let shares =
            [("10%", Some(10)), ("100", Some(100)), ("0%", None), ("101%", None), ("x", None)];
        for (text, expected) in shares {
            assert_eq!(parse_percent(text).ok(), expected, "{text}");
        }
    }
}
