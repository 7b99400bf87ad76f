use super::*;
use crate::usage::{
    bill::charges,
    query::{Behind, Line, Total},
};

fn charges_of(organization: &str, prices: Option<&PriceList>) -> Vec<Charge> {
    let line = |day: &str, namespace: &str, cpu: u128| Line {
        key: [day, organization, "shop<&>", namespace, ""].map(str::to_owned).to_vec(),
        amounts: [(Resource::CpuTime, Total(cpu)), (Resource::NetworkSent, Total(1 << 30))].into(),
        gap_seconds: 0,
    };
    let third = 1_200_000_000;
    charges(
        &[
            line("2026-11-01", "a", third),
            line("2026-11-02", "b", third),
            line("2026-11-30", "c", third),
        ],
        prices,
    )
    .unwrap()
}

fn prices() -> PriceList {
    let text = "apiVersion: kdc.dev/v1\nkind: PriceList\nmetadata: { name: standard }\nspec:\n  currency: EUR\n  \
                provider: Example <Cloud>\n  prices:\n    - { resource: cpuTime, price: 1 }\n";
    PriceList::parse(text, "p").unwrap()
}

fn november() -> Span {
    Span {
        from: calendar::begin_of(jiff::civil::date(2026, 11, 1)),
        to: calendar::begin_of(jiff::civil::date(2026, 12, 1)),
    }
}

fn page(prices: Option<&PriceList>, coverage: &Coverage) -> String {
    let subject = Subject {
        cluster: "lab",
        organization: Some("acme"),
        span: november(),
        made: 1_800_000_000,
    };
    render(&subject, &charges_of("acme", prices), coverage, prices)
}

#[test]
fn the_page_needs_nothing_but_itself_and_runs_nothing() {
    let text = page(Some(&prices()), &Coverage::default());
    for never in
        ["<script", "http://", "https://", "src=", "href=", "@import", "url(", "onload", "<iframe"]
    {
        assert!(!text.contains(never), "{never}");
    }
    assert!(text.contains("default-src 'none'"));
    assert!(text.contains("shop&lt;&amp;&gt;") && !text.contains("shop<&>"), "names are only text");
    assert!(text.contains("Example &lt;Cloud&gt;"));
    assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
    assert_eq!(text.matches("<table").count(), 2);
}

#[test]
fn the_cents_of_each_column_come_to_the_cents_below_it() {
    let text = page(Some(&prices()), &Coverage::default());
    // Three thirds of a core-hour: 0.33 and 0.33 and 0.34, and never 0.99.
    assert!(text.contains("Total: <strong>1.00 EUR</strong>"), "{text}");
    assert_eq!(text.matches("<td class=\"n\">0.33</td></tr>").count(), 2, "{text}");
    assert_eq!(text.matches("<td class=\"n\">0.34</td></tr>").count(), 1, "{text}");
    assert!(text.contains("not priced"), "network has no price");
    assert!(text.contains("Usage of acme, 2026-11<"), "{text}");
}

#[test]
fn without_prices_it_says_what_was_used_and_no_money() {
    let text = page(None, &Coverage::default());
    assert!(
        text.contains("none: amounts only") && !text.contains("EUR") && !text.contains("Cost"),
        "{text}"
    );
    assert!(
        text.contains("<td>CPU time</td><td class=\"n\">1.000</td><td>Core-Hours</td>"),
        "{text}"
    );
    let subject = Subject { cluster: "lab", organization: None, span: november(), made: 0 };
    assert!(render(&subject, &[], &Coverage::default(), None).contains("Nothing was used"));
}

#[test]
fn what_is_not_known_is_said() {
    let coverage = Coverage {
        gap_seconds: 90,
        behind: vec![Behind { node: "edge-1".to_owned(), until: november().from + 3600 }],
        ..Coverage::default()
    };
    let text = page(Some(&prices()), &coverage);
    assert!(text.contains("What is not known"), "{text}");
    assert!(text.contains("edge-1") && text.contains("2026-11-01T01:00:00Z"), "{text}");
    assert!(!page(None, &Coverage::default()).contains("What is not known"));
    assert_eq!(
        period(Span { to: november().to - 3600, ..november() }),
        "2026-11-01 to 2026-11-30T23:00:00Z"
    );
}
