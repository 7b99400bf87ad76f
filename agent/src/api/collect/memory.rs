//! `/proc/meminfo` and `/proc/vmstat`.

use super::{Sample, Source};
use crate::api::page::{Kind, Page};

/// Every line of meminfo, named as it names it.
pub(super) fn meminfo(page: &mut Page, sample: &Sample) {
    for line in sample.text(Source::Memory).lines() {
        let Some((field, rest)) = line.split_once(':') else { continue };
        let Some(number) = super::numbers(rest).next() else { continue };
        let in_kib = rest.ends_with(" kB");
        let mut name = format!("node_memory_{}", field.trim_end_matches(')').replace('(', "_"));
        if in_kib {
            name.push_str("_bytes");
        }
        let help = format!("Memory information field {}.", &name["node_memory_".len()..]);
        let value = if in_kib { number.saturating_mul(1024) } else { number };
        page.single(&name, Kind::Gauge, &help, value);
    }
}

/// Paging, and processes that the kernel killed for lack of memory.
pub(super) fn vmstat(page: &mut Page, sample: &Sample) {
    for line in sample.text(Source::Paging).lines() {
        let Some((field, number)) = line.split_once(' ') else { continue };
        let known = matches!(
            field,
            "oom_kill" | "pgfault" | "pgmajfault" | "pgpgin" | "pgpgout" | "pswpin" | "pswpout"
        );
        if let Some(number) = number.parse::<u64>().ok().filter(|_| known) {
            let help = format!("/proc/vmstat information field {field}.");
            page.single(&format!("node_vmstat_{field}"), Kind::Unknown, &help, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::collect::tests::page_of;

    #[test]
    fn memory_is_in_bytes_and_pages_stay_pages() {
        let page = page_of(&[
            (
                Source::Memory,
                "MemTotal:       24552016 kB\nActive(anon):    1024 kB\nHugePages_Total:      4\nnonsense\nX: y\n",
            ),
            (Source::Paging, "nr_free_pages 7\npgfault 12\noom_kill 3\npgmajfault x\n"),
        ]);
        for line in [
            "node_memory_MemTotal_bytes 25141264384",
            "node_memory_Active_anon_bytes 1048576",
            "node_memory_HugePages_Total 4",
            "node_vmstat_pgfault 12",
            "node_vmstat_oom_kill 3",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(!page.contains("nr_free") && !page.contains("node_memory_X"), "{page}");
    }
}
