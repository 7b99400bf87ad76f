//! Into a chart's archive, without unpacking it: the files that say which images it will ask for.

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Component, Path},
};

use serde::Deserialize;

/// Largest file looked at.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Most bytes unpacked, of all files together.
const MAX_UNPACKED: u64 = 512 * 1024 * 1024;

/// Most bytes kept.
const MAX_KEPT: usize = 64 * 1024 * 1024;

/// Most files.
const MAX_FILES: usize = 50_000;

/// Charts inside charts inside charts.
const MAX_DEPTH: usize = 4;

/// A chart: what it is called, and its text files by name.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct About {
    pub(super) name: String,
    pub(super) version: String,
    #[serde(default)]
    pub(super) app_version: Option<serde_yaml::Value>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, serde_yaml::Value>,
}

/// Reads a chart's archive.
pub(crate) fn read(mut archive: impl Read) -> Result<Chart, String> {
    let mut files = BTreeMap::new();
    let mut kept = 0;
    read_into(&mut archive, "", MAX_DEPTH, &mut files, &mut kept)?;
    // Every chart lies in a folder of its name.
    let own = files
        .iter()
        .find(|(name, _)| name.split_once('/').is_some_and(|(_, rest)| rest == "Chart.yaml"));
    let (_, text) = own.ok_or("there is no `Chart.yaml` in it")?;
    let about: About =
        serde_yaml::from_str(text).map_err(|error| format!("its `Chart.yaml`: {error}"))?;
    Ok(Chart { name: about.name, version: about.version, files })
}

fn read_into(
    archive: &mut dyn Read,
    prefix: &str,
    depth: usize,
    files: &mut BTreeMap<String, String>,
    kept: &mut usize,
) -> Result<(), String> {
    if depth == 0 {
        return Err(format!("charts are nested more than {MAX_DEPTH} deep in it"));
    }
    let wrong = |error: std::io::Error| format!("it is no chart's archive: {error}");
    let unpacked = flate2::read::GzDecoder::new(archive).take(MAX_UNPACKED);
    let mut tar = tar::Archive::new(unpacked);
    for entry in tar.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let path = entry.path().map_err(wrong)?.into_owned();
        let name = format!("{prefix}{}", harmless(&path)?);
        if !entry.header().entry_type().is_file() {
            continue;
        }
        if files.len() >= MAX_FILES {
            return Err(format!("it has more than {MAX_FILES} files"));
        }
        let size = entry.size();
        if is_inner_chart(&name) {
            read_into(&mut entry, &format!("{name}!"), depth - 1, files, kept)?;
            continue;
        }
        if !is_telling(&name) {
            continue;
        }
        if size > MAX_FILE {
            return Err(format!("`{name}` in it has {size} bytes, more than are read"));
        }
        let mut text = String::new();
        let read = (&mut entry).take(MAX_FILE).read_to_string(&mut text);
        read.map_err(|error| format!("`{name}` in it can't be read: {error}"))?;
        *kept += text.len();
        if *kept > MAX_KEPT {
            return Err(format!("its files have more than {MAX_KEPT} bytes"));
        }
        if files.insert(name.clone(), text).is_some() {
            return Err(format!("`{name}` is in it twice"));
        }
    }
    // A bomb ends here, as the end of what is read.
    if tar.into_inner().limit() == 0 {
        return Err(format!("it unpacks to more than {MAX_UNPACKED} bytes"));
    }
    Ok(())
}

/// A name that stays in the chart's own folder.
fn harmless(path: &Path) -> Result<String, String> {
    let good =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !good {
        return Err(format!("`{}` in it leads out of the chart", path.display()));
    }
    let text = path.to_str().ok_or("a name in it is not UTF-8")?;
    Ok(text.strip_prefix("./").unwrap_or(text).to_owned())
}

fn is_inner_chart(name: &str) -> bool {
    name.ends_with(".tgz") && name.rsplit('/').nth(1) == Some("charts")
}

fn is_telling(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default();
    let yaml = file.ends_with(".yaml") || file.ends_with(".yml") || file.ends_with(".tpl");
    matches!(file, "Chart.yaml" | "values.yaml") || (yaml && name.contains("/templates/"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An archive of these files.
    pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(encoder);
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    const ABOUT: &[u8] = b"name: app\nversion: 1.0.0\n";

    #[test]
    fn a_chart_and_the_charts_in_it_are_read() {
        let inner = archive(&[("sub/Chart.yaml", b"name: sub\nversion: 2.0.0\n")]);
        let bytes = archive(&[
            ("app/Chart.yaml", ABOUT),
            ("app/README.md", b"not looked at"),
            ("app/charts/sub-2.0.0.tgz", &inner),
        ]);
        let chart = read(bytes.as_slice()).unwrap();
        assert_eq!((chart.name.as_str(), chart.version.as_str()), ("app", "1.0.0"));
        let names: Vec<_> = chart.files.keys().map(String::as_str).collect();
        assert_eq!(names, ["app/Chart.yaml", "app/charts/sub-2.0.0.tgz!sub/Chart.yaml"]);
    }

    #[test]
    fn an_archive_that_means_harm_is_refused() {
        let mut nested = archive(&[("x/Chart.yaml", ABOUT)]);
        for _ in 0..6 {
            nested = archive(&[("x/Chart.yaml", ABOUT), ("x/charts/x.tgz", &nested)]);
        }
        for (bytes, part) in [
            (archive(&[("../x/Chart.yaml", ABOUT)]), "leads out"),
            (archive(&[("/x/Chart.yaml", ABOUT)]), "leads out"),
            (archive(&[("app/values.yaml", b"")]), "no `Chart.yaml`"),
            (archive(&[("a/Chart.yaml", ABOUT), ("a/Chart.yaml", ABOUT)]), "twice"),
            (archive(&[("a/Chart.yaml", &vec![b' '; 5 << 20])]), "more than are read"),
            (nested, "nested"),
            (b"nonsense".to_vec(), "no chart's archive"),
            (archive(&[("a/Chart.yaml", ABOUT)])[..40].to_vec(), "archive"),
        ] {
            let error = read(bytes.as_slice()).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let big = vec![0; 64 << 20];
        let files: Vec<(String, &[u8])> =
            (0..9).map(|number| (format!("a/{number}"), big.as_slice())).collect();
        let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), *content)).collect();
        let error = read(archive(&files).as_slice()).unwrap_err();
        assert!(
            error.contains("unpacks to more") || error.contains("no chart's archive"),
            "{error}"
        );
    }
}
