//! The host's `nft`, carried into a machine: a fresh machine has none, and is to stay fresh.
//!
//! Program, loader and libraries go to [`AT`] under `/run`, which no snapshot looks at; nothing is installed.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    program::must,
    server::{Output, Server},
};

/// Where it lies in the machine. A power cut takes it away.
const AT: &str = "/run/kdc-lab-nft";

/// The machine's firewall rules.
///
/// Where the kernel's nf_tables isn't loaded there is no rule, and asking `nft` would load it.
pub(super) fn ruleset(machine: &dyn Server) -> Result<String> {
    const LOADED: &[&str] = &["test", "-e", "/sys/module/nf_tables"];
    if !machine.exec(LOADED)?.succeeded() {
        return Ok(String::new());
    }
    if !machine.exec(&["test", "-e", &format!("{AT}/nft")])?.succeeded() {
        carry(machine)?;
    }
    let loader = format!("{AT}/loader");
    let nft = format!("{AT}/nft");
    let words = [&loader, "--library-path", AT, &nft, "-s", "list", "ruleset"];
    Ok(good(machine, &words, b"")?.stdout_text())
}

fn carry(machine: &dyn Server) -> Result<()> {
    let packed = pack()?;
    good(machine, &["mkdir", "-p", AT], b"")?;
    good(machine, &["tar", "-C", AT, "-xz"], &packed).map(drop)
}

/// `nft`, its loader as `loader`, and its libraries, all in one folder.
fn pack() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let nft = PathBuf::from(must(&["sh", "-c", "command -v nft"])?.stdout_text().trim());
    fs_err::copy(&nft, folder.path().join("nft"))?;
    let listed = must(&["ldd".as_ref(), nft.as_os_str()])?.stdout_text();
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).context("a library's name")?;
        let name = if name.starts_with("ld-") { "loader" } else { name };
        fs_err::copy(&path, folder.path().join(name))?;
    }
    let from = folder.path().as_os_str();
    Ok(must(&["tar".as_ref(), "-C".as_ref(), from, "-cz".as_ref(), ".".as_ref()])?.stdout)
}

fn good(machine: &dyn Server, argv: &[&str], input: &[u8]) -> Result<Output> {
    let output = machine.exec_with_input(argv, input)?;
    anyhow::ensure!(
        output.succeeded(),
        "`{}` failed on `{}`: {}",
        argv.join(" "),
        machine.name(),
        output.stderr_text().trim()
    );
    Ok(output)
}
