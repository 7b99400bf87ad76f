//! Charges in the columns of FOCUS 1.2, the FinOps Open Cost and Usage Specification, for billing systems.
//!
//! Every mandatory column is there, and each conditional one whose condition holds: prices, SKUs, consumed quantities,
//! sub-accounts, resources, tags. Columns of what kdc does not have (commitments, reservations, regions, invoices, a second
//! currency) are left out, as the specification has it. The organization is the billing account, the project the sub-account.
//! Times are UTC, ends exclusive; a null is an empty field. Columns of our own begin with `x_`.

use serde_json::json;

use super::{
    bill::Charge,
    calendar::{self, DAY, moment_text},
    csv,
    money::{precise_quantity, unit},
    price::PriceList,
};
use crate::meter::record::Resource;

/// Version of the specification.
pub const FOCUS_VERSION: &str = "1.2";

/// Name of the billing account of what belongs to no organization: the specification allows no null there.
pub const UNASSIGNED: &str = "unassigned";

/// The columns, in the order of the file.
pub const COLUMNS: [&str; 43] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
    "x_Cluster",
    "x_Namespace",
    "x_PriceList",
    "x_Resource",
];

/// Charges as CSV with the columns of FOCUS.
#[must_use]
pub fn render(charges: &[Charge], prices: &PriceList, cluster: &str) -> String {
    let mut text = csv::row(COLUMNS);
    for charge in charges {
        let fields = fields(charge, prices, cluster);
        text.push_str(&csv::row(COLUMNS.iter().map(|column| fields.of(column))));
    }
    text
}

/// The fields of one row, by column.
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn of(&self, column: &str) -> &str {
        self.0.iter().find(|(name, _)| *name == column).map_or("", |(_, value)| value)
    }
}

fn fields(charge: &Charge, prices: &PriceList, cluster: &str) -> Fields {
    let resource = charge.resource;
    let provider = prices.provider.as_deref().unwrap_or(cluster);
    let account = if charge.organization.is_empty() { UNASSIGNED } else { &charge.organization };
    let (month, month_end) = calendar::month_around(charge.day);
    let (quantity, of) = (precise_quantity(resource, charge.amount), unit(resource).name);
    let cost = charge.cost.precise();
    let price = |list: bool| {
        let rate = charge.rate.map(|rate| if list { rate.list } else { rate.agreed });
        rate.map_or_else(|| "0".to_owned(), |price| price.to_string())
    };
    let text = str::to_owned;
    let mut all = vec![
        ("BilledCost", cost.clone()),
        ("BillingAccountId", text(account)),
        ("BillingAccountName", text(account)),
        ("BillingAccountType", text("Organization")),
        ("BillingCurrency", prices.currency.clone()),
        ("BillingPeriodEnd", moment_text(month_end)),
        ("BillingPeriodStart", moment_text(month)),
        ("ChargeCategory", text("Usage")),
        (
            "ChargeDescription",
            format!("{} {of} of {} in {}", quantity, meter(resource), charge.namespace),
        ),
        ("ChargeFrequency", text("Usage-Based")),
        ("ChargePeriodEnd", moment_text(charge.day + DAY)),
        ("ChargePeriodStart", moment_text(charge.day)),
        ("ConsumedQuantity", quantity.clone()),
        ("ConsumedUnit", text(of)),
        ("ContractedCost", cost.clone()),
        ("ContractedUnitPrice", price(false)),
        ("EffectiveCost", cost),
        ("InvoiceIssuerName", text(provider)),
        ("ListCost", charge.list.precise()),
        ("ListUnitPrice", price(true)),
        ("PricingCategory", text("Standard")),
        ("PricingQuantity", quantity),
        ("PricingUnit", text(of)),
        ("ProviderName", text(provider)),
        ("PublisherName", text(provider)),
    ];
    all.extend(what_and_whose(charge, prices, cluster));
    Fields(all)
}

/// The columns that say what was charged for, and whose it is.
fn what_and_whose(
    charge: &Charge,
    prices: &PriceList,
    cluster: &str,
) -> Vec<(&'static str, String)> {
    let (resource, text) = (charge.resource, str::to_owned);
    let (category, subcategory, service) = service(resource);
    let (kind, id) = resource_of(charge);
    let entry = charge.rate.map_or(0, |rate| rate.entry);
    let tags = json!({ "kdc.dev/cluster": cluster, "kdc.dev/namespace": charge.namespace });
    let mut all = vec![
        ("ResourceId", id.clone()),
        ("ResourceName", id),
        ("ResourceType", text(kind)),
        ("ServiceCategory", text(category)),
        ("ServiceName", text(service)),
        ("ServiceSubcategory", text(subcategory)),
        ("SkuId", text(resource.name())),
        ("SkuMeter", text(meter(resource))),
        ("SkuPriceId", format!("{}/{entry}", prices.name)),
        ("Tags", tags.to_string()),
        ("x_Cluster", text(cluster)),
        ("x_Namespace", charge.namespace.clone()),
        ("x_PriceList", prices.name.clone()),
        ("x_Resource", text(resource.name())),
    ];
    if !charge.project.is_empty() {
        all.push(("SubAccountId", charge.project.clone()));
        all.push(("SubAccountName", charge.project.clone()));
        all.push(("SubAccountType", text("Project")));
    }
    all
}

/// Category, subcategory and name of the service that a resource belongs to, of those that the specification allows.
fn service(resource: Resource) -> (&'static str, &'static str, &'static str) {
    match resource {
        Resource::CpuTime | Resource::Memory | Resource::EphemeralStorage => {
            ("Compute", "Containers", "Kubernetes workloads")
        }
        Resource::GpuAllocated
        | Resource::GpuMemoryAllocated
        | Resource::GpuUsed
        | Resource::GpuMemoryUsed
        | Resource::GpuEnergy => ("Compute", "Other (Compute)", "GPUs"),
        Resource::VolumeStorage | Resource::DiskRead | Resource::DiskWritten => {
            ("Storage", "Other (Storage)", "Kubernetes storage")
        }
        Resource::NetworkReceived | Resource::NetworkSent => {
            ("Networking", "Data Transfer", "Kubernetes network")
        }
    }
}

/// What is metered, in words.
#[must_use]
pub fn meter(resource: Resource) -> &'static str {
    match resource {
        Resource::CpuTime => "CPU time",
        Resource::Memory => "memory",
        Resource::EphemeralStorage => "ephemeral storage",
        Resource::VolumeStorage => "volume storage",
        Resource::DiskRead => "disk reads",
        Resource::DiskWritten => "disk writes",
        Resource::NetworkReceived => "network received",
        Resource::NetworkSent => "network sent",
        Resource::GpuAllocated => "GPU allocated",
        Resource::GpuMemoryAllocated => "GPU memory allocated",
        Resource::GpuUsed => "GPU used",
        Resource::GpuMemoryUsed => "GPU memory used",
        Resource::GpuEnergy => "GPU energy",
    }
}

/// Kind and name of what was charged for: a device where there is one, else the namespace.
fn resource_of(charge: &Charge) -> (&'static str, String) {
    let kind = match charge.resource {
        _ if charge.device.is_empty() => return ("Namespace", charge.namespace.clone()),
        Resource::NetworkReceived | Resource::NetworkSent => "Network Interface",
        Resource::VolumeStorage | Resource::DiskRead | Resource::DiskWritten => "Volume",
        _ => "GPU",
    };
    let id = match kind {
        "GPU" => charge.device.clone(),
        // A claim or an interface is one only together with its namespace.
        _ => format!("{}/{}", charge.namespace, charge.device),
    };
    (kind, id)
}

#[cfg(test)]
#[path = "focus_tests.rs"]
mod tests;
