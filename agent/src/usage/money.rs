//! Money that adds up: costs are kept as exact fractions, and rounded only where they are shown.
//!
//! A price is per core-hour or GiB-hour, an amount is in microseconds or byte-seconds, and their product is no whole number
//! of cents. Every divisor that can occur divides [`PARTS`], so each cost is a whole number of such parts, and sums of costs
//! are as exact as those of amounts: in whatever order, by whatever day or tenant.

use std::{fmt, iter::Sum, ops::Add};

use crate::meter::record::Resource;

/// Prices have up to nine digits behind the point.
pub const PRICE_DIGITS: u32 = 9;
/// Parts of a billionth: the least common multiple of what units have of their smallest amounts.
const DIVISORS: i128 = (1_i128 << 34) * 9 * 390_625;
/// Parts of one unit of a currency.
pub const PARTS: i128 = DIVISORS * 1_000_000_000;

/// An amount of money, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i128);

/// A price of one unit, in billionths of a currency's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Price(u64);

impl Price {
    /// `0.0125`: digits, and at most nine behind the point.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, behind) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let fits = !whole.is_empty() && whole.len() <= 9 && behind.len() <= PRICE_DIGITS as usize;
        if !fits || !digits(whole) || !digits(behind) || text.ends_with('.') {
            return None;
        }
        let behind = format!("{behind:0<9}").parse::<u64>().ok()?;
        whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(behind).map(Self)
    }

    /// What so much of a resource costs. `None`: more money than there is.
    #[must_use]
    pub fn of(self, resource: Resource, amount: u128) -> Option<Money> {
        let unit = unit(resource);
        let parts = i128::try_from(amount).ok()?.checked_mul(DIVISORS / unit.divisor)?;
        parts.checked_mul(i128::from(self.0)).map(Money)
    }
}

impl fmt::Display for Price {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        formatter.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Money {
    /// To so many digits behind the point, half away from zero.
    #[must_use]
    pub fn rounded(self, digits: u32) -> String {
        decimal(self.0, PARTS, digits)
    }

    /// As many digits as bills of large amounts of tiny things need; nothing that ends in zeros.
    #[must_use]
    pub fn precise(self) -> String {
        trimmed(&self.rounded(12))
    }

    /// Whole cents (or whatever the last of those digits is), half away from zero.
    #[must_use]
    pub fn cents(self, digits: u32) -> i128 {
        round_to(self.0, PARTS, digits)
    }

    /// For charts: near enough.
    #[must_use]
    pub fn about(self) -> f64 {
        self.0 as f64 / PARTS as f64
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// Round each so that what is shown adds up to the rounded sum: those that lose most by rounding down get the last cents.
#[must_use]
pub fn rounded_to_sum(parts: &[Money], digits: u32) -> Vec<i128> {
    let scale = 10_i128.pow(digits);
    let floor = |money: &Money| (money.0 * scale).div_euclid(PARTS);
    let mut shown: Vec<i128> = parts.iter().map(floor).collect();
    let wanted = parts.iter().copied().sum::<Money>().cents(digits);
    let mut left = wanted - shown.iter().sum::<i128>();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|place| std::cmp::Reverse((parts[*place].0 * scale).rem_euclid(PARTS)));
    for place in order {
        if left <= 0 {
            break;
        }
        shown[place] += 1;
        left -= 1;
    }
    shown
}

/// `1234.56` out of 123456 cents.
#[must_use]
pub fn cents_text(cents: i128, digits: u32) -> String {
    let scale = 10_i128.pow(digits);
    let sign = if cents < 0 { "-" } else { "" };
    let (whole, behind) = (cents.abs() / scale, cents.abs() % scale);
    if digits == 0 {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{behind:0width$}", width = digits as usize)
    }
}

/// How amounts of a resource are shown and priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// The unit's name, as FOCUS writes units (`Core-Hours`).
    pub name: &'static str,
    /// Of how many of the smallest amounts one is made.
    divisor: i128,
}

/// The unit of a resource.
#[must_use]
pub fn unit(resource: Resource) -> Unit {
    let (name, divisor) = match resource {
        Resource::CpuTime => ("Core-Hours", 3_600_000_000),
        Resource::Memory
        | Resource::EphemeralStorage
        | Resource::VolumeStorage
        | Resource::GpuMemoryAllocated
        | Resource::GpuMemoryUsed => ("GiB-Hours", (1 << 30) * 3600),
        Resource::DiskRead
        | Resource::DiskWritten
        | Resource::NetworkReceived
        | Resource::NetworkSent => ("GiB", 1 << 30),
        Resource::GpuAllocated => ("GPU-Hours", 3_600_000),
        Resource::GpuUsed => ("GPU-Hours", 3_600_000_000),
        Resource::GpuEnergy => ("Kilowatt-Hours", 3_600_000_000),
    };
    Unit { name, divisor }
}

/// So many units as text.
#[must_use]
pub fn quantity(resource: Resource, amount: u128, digits: u32) -> String {
    decimal(i128::try_from(amount).unwrap_or(i128::MAX), unit(resource).divisor, digits)
}

/// The same with as many digits as tell neighbouring amounts apart, none of them a trailing zero.
#[must_use]
pub fn precise_quantity(resource: Resource, amount: u128) -> String {
    trimmed(&quantity(resource, amount, 15))
}

/// For charts: near enough.
#[must_use]
pub fn about(resource: Resource, amount: u128) -> f64 {
    amount as f64 / unit(resource).divisor as f64
}

fn trimmed(text: &str) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text.to_owned()
    }
}

fn decimal(value: i128, divisor: i128, digits: u32) -> String {
    cents_text(round_to(value, divisor, digits), digits)
}

/// Half away from zero. The whole part is split off first, so that no sum of bytes is too large.
fn round_to(value: i128, divisor: i128, digits: u32) -> i128 {
    let (whole, rest) = (value / divisor, value % divisor);
    let mut behind = 0;
    let mut rest = rest.abs();
    for _ in 0..digits {
        rest *= 10;
        behind = behind * 10 + rest / divisor;
        rest %= divisor;
    }
    behind += i128::from(rest * 2 >= divisor);
    let scale = 10_i128.pow(digits);
    let magnitude = whole.abs().saturating_mul(scale).saturating_add(behind);
    if value < 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_unit_s_smallest_amount_is_a_whole_number_of_parts() {
        for resource in Resource::ALL {
            let unit = unit(resource);
            assert_eq!(DIVISORS % unit.divisor, 0, "{}", unit.name);
            let one = u128::try_from(unit.divisor).unwrap();
            let price = Price::parse("0.25").unwrap();
            assert_eq!(price.of(resource, one).unwrap().precise(), "0.25", "{resource:?}");
            assert_eq!(precise_quantity(resource, one), "1");
        }
    }

    #[test]
    fn prices_are_digits_and_nothing_else() {
        for (text, shown) in
            [("0.0125", "0.0125"), ("3", "3"), ("007.50", "7.5"), ("0.000000001", "0.000000001")]
        {
            assert_eq!(Price::parse(text).unwrap().to_string(), shown);
        }
        for wrong in
            ["", ".5", "1.", "-1", "1e3", "1,5", "0.0000000001", "1234567890", "1.2.3", "x"]
        {
            assert_eq!(Price::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn money_is_rounded_only_to_be_shown() {
        let price = Price::parse("0.03").unwrap();
        let third = price.of(Resource::CpuTime, 1_200_000_000).unwrap();
        assert_eq!((third.rounded(2), third.precise()), ("0.01".to_owned(), "0.01".to_owned()));
        let sliver = price.of(Resource::CpuTime, 1).unwrap();
        assert_eq!(sliver.precise(), "0.000000000008");
        let many: Money =
            (0..3_600_000_000_u64 / 1000).map(|_| price.of(Resource::CpuTime, 1000).unwrap()).sum();
        assert_eq!(many.precise(), "0.03");
        assert_eq!(price.of(Resource::Memory, u128::MAX), None);
        assert_eq!(cents_text(-5, 2), "-0.05");
        assert!(quantity(Resource::NetworkSent, u128::MAX, 3).ends_with("000"), "no overflow");
    }

    proptest! {
        /// In whatever parts an amount is billed, the bill is the same.
        #[test]
        fn the_parts_of_a_bill_come_to_the_bill(amounts in prop::collection::vec(any::<u64>(), 1..20), price in 0_u64..10_000_000_000) {
            let price = Price(price);
            for resource in Resource::ALL {
                let whole: u128 = amounts.iter().map(|amount| u128::from(*amount >> 8)).sum();
                let parts: Money = amounts.iter().map(|amount| price.of(resource, u128::from(*amount >> 8)).unwrap()).sum();
                prop_assert_eq!(price.of(resource, whole).unwrap(), parts);
            }
        }

        /// What is shown in a column adds up to what is shown below it.
        #[test]
        fn a_column_of_cents_adds_up(parts in prop::collection::vec(0_i128..PARTS * 5, 1..30)) {
            let parts: Vec<Money> = parts.into_iter().map(Money).collect();
            let shown = rounded_to_sum(&parts, 2);
            let sum: Money = parts.iter().copied().sum();
            prop_assert_eq!(shown.iter().sum::<i128>(), sum.cents(2));
            for (part, cents) in parts.iter().zip(shown) {
                prop_assert!((part.0 * 100 - cents * PARTS).abs() < PARTS, "less than a cent off");
            }
        }
    }
}
