//! Rows for spreadsheets and billing systems: RFC 4180, UTF-8, one head line.

use super::{
    bill::Costed,
    money::{precise_quantity, unit},
    query::Dimension,
};
use crate::meter::record::Resource;

/// A line of fields.
#[must_use]
pub fn row<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let fields: Vec<String> = fields.into_iter().map(field).collect();
    format!("{}\r\n", fields.join(","))
}

fn field(text: &str) -> String {
    let plain = !text.contains(['"', ',', '\n', '\r']);
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// Lines as CSV: their names, every resource in its unit, gaps, and the cost where there are prices.
#[must_use]
pub fn render(by: &[Dimension], lines: &[Costed], currency: Option<&str>) -> String {
    let mut head: Vec<String> = by.iter().map(|dimension| dimension.name().to_owned()).collect();
    head.extend(
        Resource::ALL.map(|resource| format!("{} ({})", resource.name(), unit(resource).name)),
    );
    head.push("gap (Seconds)".to_owned());
    head.extend(currency.map(|currency| format!("cost ({currency})")));
    let mut text = row(head.iter().map(String::as_str));
    for line in lines {
        let mut fields = line.key.clone();
        fields.extend(Resource::ALL.map(|resource| {
            let total = line.amounts.get(&resource).map_or(0, |total| total.0);
            precise_quantity(resource, total)
        }));
        fields.push(line.gap_seconds.to_string());
        if currency.is_some() {
            fields.push(line.cost.unwrap_or_default().precise());
        }
        text.push_str(&row(fields.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::query::Total, *};

    #[test]
    fn every_resource_has_its_column_and_odd_names_are_quoted() {
        let line = Costed {
            key: vec!["a,\"b\"".to_owned()],
            amounts: BTreeMap::from([(Resource::CpuTime, Total(1_800_000_000))]),
            cost: Some(Default::default()),
            gap_seconds: 7,
        };
        let text = render(&[Dimension::Namespace], std::slice::from_ref(&line), Some("EUR"));
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert!(
            lines[0].starts_with("namespace,cpuTime (Core-Hours),memory (GiB-Hours),"),
            "{text}"
        );
        assert_eq!(lines[1], "\"a,\"\"b\"\"\",0.5,0,0,0,0,0,0,0,0,0,0,0,0,7,0");
        assert_eq!(lines[0].split(',').count(), 1 + 13 + 2);
        assert_eq!(render(&[], &[], None).lines().count(), 1);
    }
}
