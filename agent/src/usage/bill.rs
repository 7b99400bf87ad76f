//! What used amounts cost: lines of an answer with their money.

use std::collections::BTreeMap;

use super::{
    calendar,
    money::Money,
    price::{PriceList, Rate},
    query::{Dimension, Line, Total},
};
use crate::meter::record::Resource;

/// By what amounts must be told apart for a price to be known.
pub const PRICED_BY: [Dimension; 2] = [Dimension::Day, Dimension::Organization];

/// By what a bill tells its charges apart.
pub const BILLED_BY: [Dimension; 5] = [
    Dimension::Day,
    Dimension::Organization,
    Dimension::Project,
    Dimension::Namespace,
    Dimension::Device,
];

/// One resource of one namespace on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Midnight at which the day begins.
    pub day: i64,
    /// Who pays; empty: nobody does.
    pub organization: String,
    /// The project; empty: none.
    pub project: String,
    /// The namespace.
    pub namespace: String,
    /// GPU, volume or interface; empty: none.
    pub device: String,
    /// Of what.
    pub resource: Resource,
    /// How much, in the resource's unit.
    pub amount: u128,
    /// By which price; `None`: there is none, and it costs nothing.
    pub rate: Option<Rate>,
    /// What it costs by the list.
    pub list: Money,
    /// What is to be paid.
    pub cost: Money,
}

/// A line with what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Costed {
    /// Names, as the question's dimensions are.
    pub key: Vec<String>,
    /// Sums.
    pub amounts: BTreeMap<Resource, Total>,
    /// What is to be paid for all of them; `None` without a price list.
    pub cost: Option<Money>,
    /// Seconds in which nobody looked.
    pub gap_seconds: u64,
}

/// Money does not fit any number: the amounts or prices are nonsense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{amount} of {} at the price in entry {entry} of the list is more money than there is", resource.name())]
pub struct TooMuch {
    /// Of what.
    pub resource: Resource,
    /// How much.
    pub amount: u128,
    /// Which price.
    pub entry: usize,
}

fn costs(resource: Resource, amount: u128, rate: Option<Rate>) -> Result<(Money, Money), TooMuch> {
    let Some(rate) = rate else { return Ok(Default::default()) };
    rate.costs(resource, amount).ok_or(TooMuch { resource, amount, entry: rate.entry })
}

fn day_of(text: &str) -> i64 {
    calendar::parse_moment(text, false).unwrap_or(0)
}

/// The charges of lines that were asked for by [`BILLED_BY`].
///
/// # Errors
/// When an amount costs more than any number can say.
pub fn charges(lines: &[Line], prices: Option<&PriceList>) -> Result<Vec<Charge>, TooMuch> {
    let mut charges = Vec::new();
    for line in lines {
        let name = |place: usize| line.key.get(place).cloned().unwrap_or_default();
        let (day, organization) = (day_of(&name(0)), name(1));
        for (resource, Total(amount)) in &line.amounts {
            let rate = prices.and_then(|prices| prices.rate(*resource, &organization, day));
            let (list, cost) = costs(*resource, *amount, rate)?;
            charges.push(Charge {
                day,
                organization: organization.clone(),
                project: name(2),
                namespace: name(3),
                device: name(4),
                resource: *resource,
                amount: *amount,
                rate,
                list,
                cost,
            });
        }
    }
    Ok(charges)
}

/// Lines by `asked`, with their cost, folded to the dimensions that `keep` names.
///
/// # Errors
/// When an amount costs more than any number can say.
pub fn costed(
    lines: &[Line],
    asked: &[Dimension],
    keep: &[Dimension],
    prices: Option<&PriceList>,
) -> Result<Vec<Costed>, TooMuch> {
    let place = |dimension: Dimension| asked.iter().position(|one| *one == dimension);
    let mut folded: BTreeMap<Vec<String>, Costed> = BTreeMap::new();
    for line in lines {
        let name = |dimension| {
            place(dimension).and_then(|place| line.key.get(place)).cloned().unwrap_or_default()
        };
        let key: Vec<String> = keep.iter().map(|dimension| name(*dimension)).collect();
        let empty = || Costed {
            key: key.clone(),
            amounts: BTreeMap::new(),
            cost: prices.map(|_| Money::default()),
            gap_seconds: 0,
        };
        let sum = folded.entry(key.clone()).or_insert_with(empty);
        sum.gap_seconds = sum.gap_seconds.saturating_add(line.gap_seconds);
        let (day, organization) = (day_of(&name(Dimension::Day)), name(Dimension::Organization));
        for (resource, Total(amount)) in &line.amounts {
            sum.amounts.entry(*resource).or_default().0 += amount;
            let Some(prices) = prices else { continue };
            let (_, cost) = costs(*resource, *amount, prices.rate(*resource, &organization, day))?;
            sum.cost = Some(sum.cost.unwrap_or_default() + cost);
        }
    }
    Ok(folded.into_values().collect())
}

/// What to ask by, so that lines can be priced: what is wanted, and what prices depend on.
#[must_use]
pub fn asked_by(wanted: &[Dimension], has_prices: bool) -> Vec<Dimension> {
    let mut asked = wanted.to_vec();
    for dimension in PRICED_BY {
        if has_prices && !asked.contains(&dimension) {
            asked.push(dimension);
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &[&str], cpu: u128) -> Line {
        Line {
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            amounts: [(Resource::CpuTime, Total(cpu))].into(),
            gap_seconds: 1,
        }
    }

    fn prices() -> PriceList {
        let text = "apiVersion: kdc.dev/v1\nkind: PriceList\nmetadata: { name: standard }\nspec:\n  currency: EUR\n  \
                    prices:\n    - { resource: cpuTime, price: 1 }\n    \
                    - { resource: cpuTime, price: 2, from: 2000-03-01 }\n    \
                    - { resource: cpuTime, price: 0.5, organization: acme }\n";
        PriceList::parse(text, "p").unwrap()
    }

    #[test]
    fn the_day_and_the_organization_say_the_price_also_where_neither_is_shown() {
        let hour = 3_600_000_000;
        let asked = asked_by(&[Dimension::Node], true);
        assert_eq!(asked, [Dimension::Node, Dimension::Day, Dimension::Organization]);
        let lines = [
            line(&["n1", "2000-02-29", "beta"], hour),
            line(&["n1", "2000-03-01", "beta"], hour),
            line(&["n1", "2000-03-01", "acme"], hour),
            line(&["n2", "2000-03-01", ""], hour),
        ];
        let costed = costed(&lines, &asked, &[Dimension::Node], Some(&prices())).unwrap();
        let shown: Vec<_> =
            costed.iter().map(|one| (one.key[0].as_str(), one.cost.unwrap().precise())).collect();
        assert_eq!(shown, [("n1", "3.5".to_owned()), ("n2", "2".to_owned())]);
        assert_eq!(costed[0].amounts[&Resource::CpuTime], Total(3 * hour));
        assert_eq!(costed[0].gap_seconds, 3);
        let without = super::costed(&lines, &asked, &[], None).unwrap();
        assert_eq!((without.len(), without[0].cost), (1, None));
    }

    #[test]
    fn charges_say_by_which_price_and_what_has_none_costs_nothing() {
        let hour = 3_600_000_000;
        let mut one = line(&["2000-03-01", "acme", "shop", "acme-shop", ""], hour);
        one.amounts.insert(Resource::Memory, Total(5));
        let charges = charges(&[one.clone()], Some(&prices())).unwrap();
        let shown: Vec<_> = charges
            .iter()
            .map(|one| {
                (
                    one.resource,
                    one.rate.map(|rate| rate.entry),
                    one.list.precise(),
                    one.cost.precise(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                (Resource::CpuTime, Some(3), "2".to_owned(), "0.5".to_owned()),
                (Resource::Memory, None, "0".to_owned(), "0".to_owned()),
            ]
        );
        one.amounts.insert(Resource::CpuTime, Total(u128::MAX));
        let error = super::charges(&[one], Some(&prices())).unwrap_err();
        assert_eq!((error.resource, error.entry), (Resource::CpuTime, 3));
    }
}
