//! A statement of one month as one HTML page that needs nothing else: no script, no link, no font from anywhere.
//!
//! What is shown adds up as it is shown: amounts of money are rounded so that a column's cents come to the cents below it.
//! Where the meter did not look the page says so, instead of a number that would look whole.

use std::fmt::Write as _;

use super::{
    bill::Charge,
    calendar::{self, Span},
    chart::{self, Series},
    focus::meter,
    money::{Money, about, cents_text, quantity, rounded_to_sum, unit},
    price::PriceList,
    query::Coverage,
};
use crate::meter::record::Resource;

/// What a statement is about.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// Whose statement; `None`: everybody's together.
    pub organization: Option<&'a str>,
    /// Of which time.
    pub span: Span,
    /// When it was made.
    pub made: i64,
}

/// Sums of a group of charges.
type Sums = std::collections::BTreeMap<Resource, (u128, Money)>;

/// The page.
#[must_use]
pub fn render(
    subject: &Subject<'_>,
    charges: &[Charge],
    coverage: &Coverage,
    prices: Option<&PriceList>,
) -> String {
    let whom = subject
        .organization
        .map_or("all organizations", |name| if name.is_empty() { "no organization" } else { name });
    let title = format!("Usage of {whom}, {}", period(subject.span));
    let provider = prices.and_then(|prices| prices.provider.as_deref()).unwrap_or(subject.cluster);
    let mut page = head(&title);
    let _ = writeln!(
        page,
        "<header><p class=\"provider\">{}</p><h1>{}</h1><dl><dt>Period</dt><dd>{} to {} (UTC, end not included)</dd>\
         <dt>Cluster</dt><dd>{}</dd><dt>Price list</dt><dd>{}</dd><dt>Made</dt><dd>{}</dd></dl></header>",
        escape(provider),
        escape(&title),
        calendar::moment_text(subject.span.from),
        calendar::moment_text(subject.span.to),
        escape(subject.cluster),
        prices.map_or_else(
            || "none: amounts only".to_owned(),
            |prices| format!("{}, in {}", escape(&prices.name), escape(&prices.currency))
        ),
        calendar::moment_text(subject.made),
    );
    if charges.is_empty() {
        page.push_str("<p class=\"total\">Nothing was used.</p>\n");
    } else {
        totals(&mut page, charges, prices);
        charts(&mut page, subject, charges, prices);
        by_place(&mut page, subject, charges, prices);
    }
    told(&mut page, subject, coverage);
    page.push_str("</main></body></html>\n");
    page
}

/// `2026-11`, or from when to when.
#[must_use]
pub fn period(span: Span) -> String {
    if calendar::month_around(span.from) == (span.from, span.to) {
        return calendar::month_text(span.from);
    }
    let day = |moment: i64| {
        if moment.rem_euclid(calendar::DAY) == 0 {
            calendar::day_text(moment)
        } else {
            calendar::moment_text(moment)
        }
    };
    format!("{} to {}", day(span.from), day(span.to))
}

fn head(title: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>{}</title>\n<style>{STYLE}</style></head><body><main>\n",
        escape(title)
    )
}

const STYLE: &str = include_str!("statement.css");

fn sums<'a>(charges: impl IntoIterator<Item = &'a Charge>) -> Sums {
    let mut sums = Sums::new();
    for charge in charges {
        let (amount, cost) = sums.entry(charge.resource).or_default();
        *amount += charge.amount;
        *cost = *cost + charge.cost;
    }
    sums
}

fn totals(page: &mut String, charges: &[Charge], prices: Option<&PriceList>) {
    let sums = sums(charges);
    if let Some(prices) = prices {
        let all: Money = sums.values().map(|(_, cost)| *cost).sum();
        let _ = writeln!(
            page,
            "<p class=\"total\">Total: <strong>{} {}</strong></p>",
            all.rounded(prices.digits),
            escape(&prices.currency)
        );
    }
    page.push_str("<h2>What was used</h2>\n<table><thead><tr><th>Resource</th><th class=\"n\">Amount</th><th>Unit</th>");
    if let Some(prices) = prices {
        let _ = write!(
            page,
            "<th class=\"n\">Price</th><th class=\"n\">Cost ({})</th>",
            escape(&prices.currency)
        );
    }
    page.push_str("</tr></thead><tbody>\n");
    let costs: Vec<Money> = sums.values().map(|(_, cost)| *cost).collect();
    let digits = prices.map_or(2, |prices| prices.digits);
    let cents = rounded_to_sum(&costs, digits);
    for ((resource, (amount, _)), cents) in sums.iter().zip(&cents) {
        let _ = write!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td>",
            meter(*resource),
            quantity(*resource, *amount, 3),
            unit(*resource).name
        );
        if prices.is_some() {
            let _ = write!(
                page,
                "<td class=\"n\">{}</td><td class=\"n\">{}</td>",
                prices_of(*resource, charges),
                cents_text(*cents, digits)
            );
        }
        page.push_str("</tr>\n");
    }
    if prices.is_some() {
        let _ = writeln!(
            page,
            "<tr class=\"sum\"><td colspan=\"4\">Total</td><td class=\"n\">{}</td></tr>",
            cents_text(cents.iter().sum(), digits)
        );
    }
    page.push_str("</tbody></table>\n");
}

/// The price of a resource, or the range of its prices.
fn prices_of(resource: Resource, charges: &[Charge]) -> String {
    let rates = charges
        .iter()
        .filter(|charge| charge.resource == resource)
        .map(|charge| charge.rate.map(|rate| rate.agreed));
    let mut all: Vec<_> = rates.collect();
    all.sort_unstable();
    all.dedup();
    match all.as_slice() {
        [] | [None] => "not priced".to_owned(),
        [Some(one)] => one.to_string(),
        [first, .., last] => {
            let text = |price: &Option<super::money::Price>| {
                price.map_or_else(|| "0".to_owned(), |price| price.to_string())
            };
            format!("{} to {}", text(first), text(last))
        }
    }
}

/// Resources of one colour in charts.
const GROUPS: [(&str, &str, &[Resource]); 5] = [
    ("CPU", "#0969da", &[Resource::CpuTime]),
    ("Memory", "#8250df", &[Resource::Memory]),
    (
        "GPU",
        "#1a7f37",
        &[
            Resource::GpuAllocated,
            Resource::GpuMemoryAllocated,
            Resource::GpuUsed,
            Resource::GpuMemoryUsed,
            Resource::GpuEnergy,
        ],
    ),
    (
        "Storage",
        "#bc4c00",
        &[
            Resource::EphemeralStorage,
            Resource::VolumeStorage,
            Resource::DiskRead,
            Resource::DiskWritten,
        ],
    ),
    ("Network", "#bf3989", &[Resource::NetworkReceived, Resource::NetworkSent]),
];

fn charts(
    page: &mut String,
    subject: &Subject<'_>,
    charges: &[Charge],
    prices: Option<&PriceList>,
) {
    let days: Vec<i64> = subject.span.days().take(400).collect();
    let names: Vec<String> = days.iter().map(|day| calendar::day_text(*day)).collect();
    let place = |day: i64| days.binary_search(&day).ok();
    match prices {
        Some(prices) => {
            let mut series: Vec<Series> = GROUPS
                .iter()
                .map(|(name, color, _)| Series::new(name, color, days.len()))
                .collect();
            for charge in charges {
                let group =
                    GROUPS.iter().position(|(.., resources)| resources.contains(&charge.resource));
                if let (Some(group), Some(day)) = (group, place(charge.day)) {
                    series[group].values[day] += charge.cost.about();
                }
            }
            series.retain(|one| one.values.iter().any(|value| *value > 0.0));
            let _ = writeln!(
                page,
                "<h2>Cost by day</h2>\n{}",
                chart::columns(&names, &series, &prices.currency)
            );
        }
        None => {
            for (resource, color) in [
                (Resource::CpuTime, "#0969da"),
                (Resource::Memory, "#8250df"),
                (Resource::GpuAllocated, "#1a7f37"),
            ] {
                let mut series = Series::new(meter(resource), color, days.len());
                for charge in charges.iter().filter(|charge| charge.resource == resource) {
                    if let Some(day) = place(charge.day) {
                        series.values[day] += about(resource, charge.amount);
                    }
                }
                if series.values.iter().any(|value| *value > 0.0) {
                    let chart = chart::columns(&names, &[series], unit(resource).name);
                    let _ =
                        writeln!(page, "<h2>{} by day</h2>\n{chart}", first_up(meter(resource)));
                }
            }
        }
    }
}

fn first_up(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A table by project and namespace, and a bar for each where there are prices.
fn by_place(
    page: &mut String,
    subject: &Subject<'_>,
    charges: &[Charge],
    prices: Option<&PriceList>,
) {
    let mut places: std::collections::BTreeMap<(&str, &str, &str), Vec<&Charge>> =
        Default::default();
    for charge in charges {
        let key =
            (charge.organization.as_str(), charge.project.as_str(), charge.namespace.as_str());
        places.entry(key).or_default().push(charge);
    }
    let all = subject.organization.is_none();
    page.push_str("<h2>By project and namespace</h2>\n");
    let sums: Vec<((&str, &str, &str), Sums)> =
        places.iter().map(|(key, charges)| (*key, sums(charges.iter().copied()))).collect();
    let costs: Vec<Money> =
        sums.iter().map(|(_, sums)| sums.values().map(|(_, cost)| *cost).sum()).collect();
    if prices.is_some() {
        let bars: Vec<(String, f64)> = sums
            .iter()
            .zip(&costs)
            .map(|(((.., namespace), _), cost)| ((*namespace).to_owned(), cost.about()))
            .collect();
        page.push_str(&chart::bars(&bars, 20));
    }
    let shown = Shown { all, sums: &sums, costs: &costs };
    place_table(page, &shown, prices);
}

/// What the table by project and namespace shows.
struct Shown<'a> {
    /// With a column for the organization.
    all: bool,
    sums: &'a [((&'a str, &'a str, &'a str), Sums)],
    costs: &'a [Money],
}

fn place_table(page: &mut String, shown: &Shown<'_>, prices: Option<&PriceList>) {
    let Shown { all, sums, costs } = *shown;
    page.push_str("<table><thead><tr>");
    if all {
        page.push_str("<th>Organization</th>");
    }
    page.push_str("<th>Project</th><th>Namespace</th><th>Used</th>");
    let digits = prices.map_or(2, |prices| prices.digits);
    if let Some(prices) = prices {
        let _ = write!(page, "<th class=\"n\">Cost ({})</th>", escape(&prices.currency));
    }
    page.push_str("</tr></thead><tbody>\n");
    let cents = rounded_to_sum(costs, digits);
    for (((organization, project, namespace), sums), cents) in sums.iter().zip(&cents) {
        page.push_str("<tr>");
        let names = all.then_some(*organization).into_iter().chain([*project, *namespace]);
        for name in names {
            let shown = if name.is_empty() { "–".to_owned() } else { escape(name) };
            let _ = write!(page, "<td>{shown}</td>");
        }
        let used: Vec<String> = sums
            .iter()
            .map(|(resource, (amount, _))| {
                format!(
                    "{} {} {}",
                    meter(*resource),
                    quantity(*resource, *amount, 3),
                    unit(*resource).name
                )
            })
            .collect();
        let _ = write!(page, "<td>{}</td>", used.join("<br>"));
        if prices.is_some() {
            let _ = write!(page, "<td class=\"n\">{}</td>", cents_text(*cents, digits));
        }
        page.push_str("</tr>\n");
    }
    if prices.is_some() {
        let span = 3 + usize::from(all);
        let sum = cents_text(cents.iter().sum(), digits);
        let _ = writeln!(
            page,
            "<tr class=\"sum\"><td colspan=\"{span}\">Total</td><td class=\"n\">{sum}</td></tr>"
        );
    }
    page.push_str("</tbody></table>\n");
}

/// What a reader must know to trust the page.
fn told(page: &mut String, subject: &Subject<'_>, coverage: &Coverage) {
    let words = coverage.words(subject.span);
    if words.is_empty() {
        page.push_str("<p>Every record of this time is here, and none has a gap.</p>\n");
    } else {
        page.push_str("<h2>What is not known</h2>\n<div class=\"told\"><ul>\n");
        for line in &words {
            let _ = writeln!(page, "<li>{}</li>", escape(line));
        }
        page.push_str("</ul></div>\n");
    }
    let _ = writeln!(
        page,
        "<footer>Made of {} records of {} nodes. Amounts are exact sums of whole numbers; money is rounded only here.</footer>",
        coverage.records, coverage.nodes
    );
}

/// Text that is only text in HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
#[path = "statement_tests.rs"]
mod tests;
