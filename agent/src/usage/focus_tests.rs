use super::*;
use crate::usage::{
    bill::charges,
    query::{Line, Total},
};

fn prices() -> PriceList {
    let text = "apiVersion: kdc.dev/v1\nkind: PriceList\nmetadata: { name: standard }\nspec:\n  currency: EUR\n  \
                provider: Example Cloud\n  prices:\n    - { resource: cpuTime, price: 0.02 }\n    \
                - { resource: gpuAllocated, price: 2 }\n    \
                - { resource: gpuAllocated, price: 1.5, organization: acme }\n";
    PriceList::parse(text, "p").unwrap()
}

fn line(key: [&str; 5], resource: Resource, amount: u128) -> Line {
    Line {
        key: key.map(str::to_owned).to_vec(),
        amounts: [(resource, Total(amount))].into(),
        gap_seconds: 0,
    }
}

/// Rows by column; no field of the samples has a comma but the tags.
fn rows(text: &str) -> Vec<Vec<String>> {
    let parse = |line: &str| {
        let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
        for character in line.chars() {
            match character {
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(std::mem::take(&mut field)),
                other => field.push(other),
            }
        }
        fields.push(field);
        fields
    };
    text.lines().map(parse).collect()
}

/// What three rows have in a column.
const WANTED: &[(&str, [&str; 3])] = &[
    ("BilledCost", ["1.5", "0.01", "0"]),
    ("ContractedCost", ["1.5", "0.01", "0"]),
    ("ListCost", ["2", "0.01", "0"]),
    ("ListUnitPrice", ["2", "0.02", "0"]),
    ("ContractedUnitPrice", ["1.5", "0.02", "0"]),
    ("BillingAccountId", ["acme", "unassigned", "acme"]),
    ("SubAccountId", ["shop", "", "shop"]),
    (
        "BillingPeriodStart",
        ["2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z"],
    ),
    ("BillingPeriodEnd", ["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"]),
    ("ChargePeriodEnd", ["2026-12-01T00:00:00Z", "2026-12-02T00:00:00Z", "2026-12-02T00:00:00Z"]),
    ("ConsumedQuantity", ["1", "0.5", "1.137777777777778"]),
    ("ConsumedUnit", ["GPU-Hours", "Core-Hours", "GiB-Hours"]),
    ("PricingUnit", ["GPU-Hours", "Core-Hours", "GiB-Hours"]),
    ("ResourceType", ["GPU", "Namespace", "Volume"]),
    ("ResourceId", ["GPU-1", "kube-system", "acme-shop/data"]),
    ("ServiceCategory", ["Compute", "Compute", "Storage"]),
    ("SkuPriceId", ["standard/3", "standard/1", "standard/0"]),
    ("ChargeClass", ["", "", ""]),
    ("ChargeCategory", ["Usage", "Usage", "Usage"]),
];

#[test]
fn a_row_has_every_mandatory_column_and_units_as_the_specification_writes_them() {
    let lines = [
        line(
            ["2026-11-30", "acme", "shop", "acme-shop", "GPU-1"],
            Resource::GpuAllocated,
            3_600_000,
        ),
        line(["2026-12-01", "", "", "kube-system", ""], Resource::CpuTime, 1_800_000_000),
        line(["2026-12-01", "acme", "shop", "acme-shop", "data"], Resource::VolumeStorage, 1 << 42),
    ];
    let charges = charges(&lines, Some(&prices())).unwrap();
    let text = render(&charges, &prices(), "lab");
    let rows = rows(&text);
    assert_eq!(rows.len(), 4);
    let get = |row: usize, column: &str| {
        let place =
            rows[0].iter().position(|name| name == column).unwrap_or_else(|| panic!("{column}"));
        rows[row][place].clone()
    };
    assert!(rows.iter().all(|row| row.len() == COLUMNS.len()));
    for (column, values) in WANTED {
        for (place, value) in values.iter().enumerate() {
            assert_eq!(get(place + 1, column), *value, "{column}, row {place}");
        }
    }
    // Columns that the specification wants in every row, never null.
    for column in [
        "BilledCost",
        "BillingAccountId",
        "BillingCurrency",
        "BillingPeriodEnd",
        "BillingPeriodStart",
        "ChargeCategory",
        "ChargeDescription",
        "ChargePeriodEnd",
        "ChargePeriodStart",
        "ContractedCost",
        "EffectiveCost",
        "InvoiceIssuerName",
        "ListCost",
        "PricingQuantity",
        "PricingUnit",
        "ProviderName",
        "PublisherName",
        "ServiceCategory",
        "ServiceName",
        "ServiceSubcategory",
    ] {
        (1..4).for_each(|row| assert!(!get(row, column).is_empty(), "{column}"));
    }
}

#[test]
fn columns_are_pascal_case_in_order_and_our_own_are_marked() {
    assert!(COLUMNS.is_sorted());
    for column in COLUMNS {
        let plain = column.strip_prefix("x_").unwrap_or(column);
        assert!(plain.starts_with(|first: char| first.is_ascii_uppercase()), "{column}");
        assert!(plain.chars().all(|one| one.is_ascii_alphanumeric()), "{column}");
    }
    let units = ["Core-Hours", "GiB-Hours", "GiB", "GPU-Hours", "Kilowatt-Hours"];
    for resource in Resource::ALL {
        assert!(units.contains(&unit(resource).name));
    }
}
