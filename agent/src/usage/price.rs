//! The price list an operator writes, and what used amounts cost by it.
//!
//! ```yaml
//! apiVersion: kdc.dev/v1
//! kind: PriceList
//! metadata: { name: standard-2026 }
//! spec:
//!   currency: EUR
//!   provider: Example Cloud
//!   prices:
//!     - { resource: cpuTime, price: 0.021 }                          # a core-hour
//!     - { resource: memory, price: 0.0028 }                          # a GiB-hour
//!     - { resource: gpuAllocated, price: 1.90, from: 2026-07-01 }    # from that day (UTC) on
//!     - { resource: gpuAllocated, price: 1.60, organization: acme }  # agreed with one organization
//! ```
//!
//! What is not priced costs nothing and is shown all the same. Of several prices the youngest that holds counts, and one that
//! was agreed with the organization counts before the list's.

use std::{io::Read as _, path::Path};

use kdc_profiles::{
    fields::{Fields, Place},
    problem::Problems,
    yaml,
};

use super::{
    calendar,
    money::{Money, Price},
};
use crate::meter::record::Resource;

/// Most prices of a list.
const MAX_PRICES: usize = 10_000;
/// Largest file.
const MAX_FILE: u64 = 1024 * 1024;

/// A price list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceList {
    /// Its name, which bills repeat.
    pub name: String,
    /// ISO 4217.
    pub currency: String,
    /// Digits behind the point that bills round to.
    pub digits: u32,
    /// Who bills; the cluster's name where nothing is said.
    pub provider: Option<String>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    resource: Resource,
    price: Price,
    /// Midnight (UTC) from which it holds.
    from: i64,
    organization: Option<String>,
}

/// What counts for an amount: the list's price, and what is to be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The list's.
    pub list: Price,
    /// Agreed with the organization, or the list's.
    pub agreed: Price,
    /// Place in the list of the entry that counts, from 1.
    pub entry: usize,
}

impl Rate {
    /// What so much costs, by the list and as agreed.
    #[must_use]
    pub fn costs(&self, resource: Resource, amount: u128) -> Option<(Money, Money)> {
        Some((self.list.of(resource, amount)?, self.agreed.of(resource, amount)?))
    }
}

impl PriceList {
    /// The price of a resource on a day for an organization.
    #[must_use]
    pub fn rate(&self, resource: Resource, organization: &str, day: i64) -> Option<Rate> {
        let newest = |organization: Option<&str>| {
            let holds = |entry: &&(usize, &Entry)| {
                entry.1.resource == resource
                    && entry.1.from <= day
                    && entry.1.organization.as_deref() == organization
            };
            let entries = self.entries.iter().enumerate();
            let found = entries
                .filter(|entry| holds(&entry))
                .max_by_key(|(place, entry)| (entry.from, *place));
            found.map(|(place, entry)| (place + 1, entry.price))
        };
        let list = newest(None);
        let agreed = newest(Some(organization));
        let (entry, paid) = agreed.or(list)?;
        // Something only this organization has a price for is listed at that price.
        Some(Rate { list: list.map_or(paid, |(_, price)| price), agreed: paid, entry })
    }

    /// Resources that have a price.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        Resource::ALL
            .into_iter()
            .filter(|one| self.entries.iter().any(|entry| entry.resource == *one))
    }

    /// Read a list; every mistake in it is told with its line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, file: &str) -> Result<Self, Problems> {
        let mut problems = Problems::new(file);
        let list = yaml::parse(text, &mut problems)
            .and_then(|tree| read(&Place::root(&tree), &mut problems));
        problems.finish(list)
    }

    /// Read the file.
    ///
    /// # Errors
    /// When it can't be read, or what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, PriceError> {
        let mut text = String::new();
        let file = fs_err::File::open(path)?;
        file.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            let what = format!("{}: more than {MAX_FILE} bytes", path.display());
            return Err(std::io::Error::other(what).into());
        }
        Ok(Self::parse(&text, &path.display().to_string())?)
    }
}

/// A price list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// The file can't be read.
    #[error("the price list can't be read")]
    File(#[from] std::io::Error),
    /// What it says is wrong.
    #[error("{0}")]
    Problems(Problems),
}

impl From<Problems> for PriceError {
    fn from(problems: Problems) -> Self {
        Self::Problems(problems)
    }
}

fn read(root: &Place<'_>, problems: &mut Problems) -> Option<PriceList> {
    let mut fields = root.fields(problems)?;
    for (name, value) in [("apiVersion", "kdc.dev/v1"), ("kind", "PriceList")] {
        let place = fields.required(problems, name, &format!("`{value}`"));
        if let Some(place) = place
            && place.text(problems).is_some_and(|text| text != value)
        {
            place.wrong(problems, "this is something else", format!("`{value}`"));
        }
    }
    let name = fields.required(problems, "metadata", "a map with `name`").and_then(|place| {
        let mut fields = place.fields(problems)?;
        let name = fields.required(problems, "name", "a name for this list");
        let name = name.and_then(|place| short(&place, problems, "a name"));
        fields.finish(problems);
        name
    });
    let spec = fields.required(problems, "spec", "a map with `currency` and `prices`");
    let list = spec.and_then(|place| {
        let mut fields = place.fields(problems)?;
        let list = read_spec(&mut fields, name, problems);
        fields.finish(problems);
        Some(list)
    });
    fields.finish(problems);
    list
}

fn read_spec(fields: &mut Fields<'_>, name: Option<String>, problems: &mut Problems) -> PriceList {
    let code = "a currency by its three letters (ISO 4217), such as EUR";
    let currency = fields.required(problems, "currency", code).and_then(|place| {
        let text = place.text(problems)?;
        let good = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
        if !good {
            place.wrong(problems, format!("`{text}` is none"), code);
        }
        Some(text.to_owned())
    });
    let digits = fields.optional("digits").map(|place| place.number(problems, 0, 6));
    let provider =
        fields.optional("provider").and_then(|place| short(&place, problems, "who bills"));
    let prices = fields.required(problems, "prices", "a list of prices");
    let mut entries = Vec::new();
    for place in prices.and_then(|place| place.list(problems)).unwrap_or_default() {
        if entries.len() == MAX_PRICES {
            place.wrong(problems, format!("more than {MAX_PRICES} prices"), "fewer");
            break;
        }
        entries.extend(read_entry(&place, problems));
    }
    problems_of_doubles(&entries, problems);
    let taken = std::mem::take(&mut entries);
    PriceList {
        name: name.unwrap_or_default(),
        currency: currency.unwrap_or_default(),
        digits: digits.flatten().and_then(|digits| u32::try_from(digits).ok()).unwrap_or(2),
        provider,
        entries: taken.into_iter().map(|(_, entry)| entry).collect(),
    }
}

/// Two prices of the same thing from the same day on: nobody can say which is meant.
fn problems_of_doubles(entries: &[(u64, Entry)], problems: &mut Problems) {
    for (place, (line, entry)) in entries.iter().enumerate() {
        let same = |(_, earlier): &&(u64, Entry)| {
            (earlier.resource, earlier.from, &earlier.organization)
                == (entry.resource, entry.from, &entry.organization)
        };
        if let Some((first, _)) = entries[..place].iter().find(same) {
            let what = format!(
                "`{}` has a price for the same organization and day in line {first}",
                entry.resource.name()
            );
            problems.add(*line, "spec.prices", what, "one of them, or another `from`");
        }
    }
}

fn read_entry(place: &Place<'_>, problems: &mut Problems) -> Option<(u64, Entry)> {
    let choices: Vec<(&str, Resource)> =
        Resource::ALL.iter().map(|one| (one.name(), *one)).collect();
    let mut fields = place.fields(problems)?;
    let resource = fields.required(problems, "resource", "what it is the price of");
    let resource = resource.and_then(|place| place.one_of(problems, &choices));
    let words = "a price of one unit: digits, at most nine behind the point, such as 0.021";
    let price = fields.required(problems, "price", words).and_then(|place| {
        let text = place.text(problems)?;
        let price = Price::parse(text);
        if price.is_none() {
            place.wrong(problems, format!("`{text}` is no price"), words);
        }
        price
    });
    let from = match fields.optional("from") {
        None => Some(0),
        Some(place) => {
            place.text(problems).and_then(|text| match calendar::parse_moment(text, false) {
                Ok(from) if from.rem_euclid(calendar::DAY) == 0 => Some(from),
                _ => {
                    place.wrong(
                        problems,
                        format!("`{text}` is no day"),
                        "a day, such as 2026-07-01",
                    );
                    None
                }
            })
        }
    };
    let organization = fields.optional("organization");
    let organization = organization.map(|place| short(&place, problems, "an organization's name"));
    fields.finish(problems);
    let organization = match organization {
        Some(None) => return None,
        Some(name) => name,
        None => None,
    };
    let entry = Entry { resource: resource?, price: price?, from: from?, organization };
    Some((place.tree.line, entry))
}

fn short(place: &Place<'_>, problems: &mut Problems, expected: &str) -> Option<String> {
    let text = place.text(problems)?;
    if text.is_empty() || text.len() > 253 || text.chars().any(char::is_control) {
        place.wrong(problems, "this is empty, too long, or has control characters", expected);
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "apiVersion: kdc.dev/v1\nkind: PriceList\nmetadata: { name: standard }\nspec:\n  currency: EUR\n  \
                        provider: Example\n  prices:\n    - { resource: cpuTime, price: 0.02 }\n    \
                        - { resource: cpuTime, price: 0.03, from: 2000-02-29 }\n    \
                        - { resource: cpuTime, price: 0.01, organization: acme }\n    \
                        - { resource: gpuEnergy, price: '0.25', organization: acme }\n";

    #[test]
    fn the_youngest_price_that_holds_counts_and_an_agreed_one_before_it() {
        let list = PriceList::parse(LIST, "p.yaml").unwrap();
        assert_eq!((&*list.name, &*list.currency, list.digits), ("standard", "EUR", 2));
        let day = 951_782_400;
        let rate = |resource, organization, day| {
            let rate = list.rate(resource, organization, day)?;
            Some((rate.list.to_string(), rate.agreed.to_string(), rate.entry))
        };
        let is =
            |list: &str, agreed: &str, entry| Some((list.to_owned(), agreed.to_owned(), entry));
        assert_eq!(rate(Resource::CpuTime, "beta", day - 1), is("0.02", "0.02", 1));
        assert_eq!(rate(Resource::CpuTime, "beta", day), is("0.03", "0.03", 2));
        assert_eq!(rate(Resource::CpuTime, "acme", day), is("0.03", "0.01", 3));
        assert_eq!(rate(Resource::GpuEnergy, "acme", day), is("0.25", "0.25", 4));
        assert_eq!(rate(Resource::GpuEnergy, "beta", day), None);
        assert_eq!(list.resources().collect::<Vec<_>>(), [Resource::CpuTime, Resource::GpuEnergy]);
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "apiVersion: kdc.dev/v2\nkind: PriceList\nmetadata: { name: '' }\nspec:\n  currency: euro\n  digit: 2\n  \
                    prices:\n    - { resource: cpu, price: 0.02 }\n    - { resource: memory, price: -1 }\n    \
                    - { resource: memory, price: 1, from: tomorrow }\n    - { resource: memory, price: 1 }\n    \
                    - { resource: memory, price: 2 }\n";
        let problems = PriceList::parse(text, "p.yaml").unwrap_err();
        let told: Vec<(u64, &str)> =
            problems.list().iter().map(|one| (one.line, one.field.as_str())).collect();
        for wanted in [
            (1, "apiVersion"),
            (3, "metadata.name"),
            (5, "spec.currency"),
            (8, "spec.prices[0].resource"),
            (9, "spec.prices[1].price"),
            (10, "spec.prices[2].from"),
            (12, "spec.prices"),
        ] {
            assert!(told.contains(&wanted), "{wanted:?} in {told:?}");
        }
        assert!(told.iter().any(|(line, _)| *line == 6), "an unknown field: {told:?}");
        assert!(problems.to_string().contains("`cpuTime`"), "{problems}");
        assert!(PriceList::parse("", "p.yaml").is_err());
    }
}
