//! How a snapshot is taken: one question for each kind of thing, asked on the server with what every server has.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::volatile::{self, begins};
use super::{Kind, Snapshot};
use crate::server::Server;

/// The exit status of `timeout` where it had to end its program.
const TIMED_OUT: i32 = 124;

impl Snapshot {
    /// A server as it is now, once it has booted up.
    pub fn of(server: &dyn Server) -> Result<Self> {
        wait_until_booted(server)?;
        wait_for_addresses(server)?;
        let mut snapshot = Self::default();
        // First, since the walk through /proc/sys sets off an automount there, which is a unit's state.
        snapshot.take_sysctls(server)?;
        snapshot.take_files(server)?;
        snapshot.take_packages(server)?;
        snapshot.take_units(server)?;
        snapshot.take_network(server)?;
        snapshot.take_mounts(server)?;
        snapshot.take_users(server)?;
        Ok(snapshot)
    }

    fn take_files(&mut self, server: &dyn Server) -> Result<()> {
        let mut prune = String::new();
        for (path, _) in volatile::PATHS {
            prune += &format!("-path {path} -prune -o ");
        }
        let found = ask(
            server,
            &["sh", "-c", &format!(r"find / {prune} -printf '%y %#m %U:%G\0%p\0%l\0'")],
        )?;
        // A file that ends between the two questions makes it complain, and is asked for again below.
        let hash =
            format!("find / {prune} -type f -print0 | xargs -0 -r sha256sum -z -b -- 2>/dev/null");
        let hashed = ask_anyway(server, &["sh", "-c", &hash])?;
        let hashes = parse_hashes(&hashed);
        let mut fields = found.split('\0');
        while let (Some(head), Some(path), Some(target)) =
            (fields.next(), fields.next(), fields.next())
        {
            let mut hash = hashes.get(path).map(|hash| (*hash).to_owned());
            if head.starts_with("f ") && hash.is_none() {
                hash = hash_again(server, path)?;
                if hash.is_none() {
                    continue;
                }
            }
            let state = file_state(head, path, target, hash.as_deref());
            self.put(
                Kind::File,
                path,
                state.with_context(|| format!("find's answer for `{path}`"))?,
            );
        }
        Ok(())
    }

    fn take_packages(&mut self, server: &dyn Server) -> Result<()> {
        let format = "${Package}:${Architecture}\t${Version} ${db:Status-Abbrev}\n";
        for line in ask(server, &["dpkg-query", "-W", "-f", format])?.lines() {
            let (name, state) = line.split_once('\t').context("dpkg-query's answer")?;
            self.put(Kind::Package, name, state.trim());
        }
        Ok(())
    }

    fn take_units(&mut self, server: &dyn Server) -> Result<()> {
        let plain = ["--no-legend", "--plain", "--full", "--no-pager"];
        let files = ask(server, &[&["systemctl", "list-unit-files"][..], &plain].concat())?;
        for line in files.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(state)) = (words.next(), words.next()) {
                self.put(Kind::UnitFile, name, state);
            }
        }
        // Mounts are compared by themselves; scopes, slices and devices follow from what runs.
        let types = "--type=service,socket,timer,path,target,automount,swap";
        let units = ask(server, &[&["systemctl", "list-units", types][..], &plain].concat())?;
        for line in units.lines() {
            let words: Vec<_> = line.split_whitespace().take(4).collect();
            let [name, load, active, sub] = words[..] else { bail!("systemctl's answer `{line}`") };
            if active != "inactive" && !begins(volatile::UNITS, name) {
                self.put(Kind::Unit, name, format!("{load} {active} {sub}"));
            }
        }
        Ok(())
    }

    fn take_sysctls(&mut self, server: &dyn Server) -> Result<()> {
        // Some can't be read by anyone; it says so on standard error and in its exit status.
        let settings = ask_anyway(server, &["sysctl", "-a"])?;
        if settings.is_empty() {
            bail!("`sysctl -a` on `{}` tells nothing", server.name());
        }
        for line in settings.lines() {
            if let Some((name, value)) =
                line.split_once(" = ").filter(|(name, _)| !begins(volatile::SYSCTLS, name))
            {
                self.put(Kind::Sysctl, name, value);
            }
        }
        for line in ask(server, &["cat", "/proc/swaps"])?.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            // The fourth says how much is in use just now.
            self.put(Kind::Swap, words[0], [&words[1..3], &words[4..]].concat().join(" "));
        }
        // A kernel that was built without modules has no such file.
        for line in ask_anyway(server, &["cat", "/proc/modules"])?.lines() {
            let name = line.split(' ').next().unwrap_or(line);
            self.put(Kind::Module, name, "loaded");
        }
        Ok(())
    }

    fn take_network(&mut self, server: &dyn Server) -> Result<()> {
        for family in ["-4", "-6"] {
            for line in ask(server, &["ip", "-o", family, "route", "show", "table", "all"])?.lines()
            {
                self.count(Kind::Route, without_lifetime(line));
            }
            for line in ask(server, &["ip", "-o", family, "rule"])?.lines() {
                self.count(Kind::Route, format!("rule {}", without_lifetime(line)));
            }
        }
        for line in ask(server, &["ip", "-o", "link"])?.lines() {
            let (name, state) =
                link_state(line).with_context(|| format!("ip's answer `{line}`"))?;
            self.put(Kind::Link, name, state);
        }
        for line in ask(server, &["ip", "-o", "addr"])?.lines() {
            let words: Vec<_> = line.split_whitespace().skip(1).take(3).collect();
            self.put(Kind::Link, words.join(" "), "address");
        }
        for rule in rules(&server.ruleset()?) {
            self.count(Kind::Rule, rule);
        }
        Ok(())
    }

    fn take_mounts(&mut self, server: &dyn Server) -> Result<()> {
        for line in ask(server, &["cat", "/proc/1/mountinfo"])?.lines() {
            let (left, right) = line.split_once(" - ").context("mountinfo's ` - `")?;
            let (left, right): (Vec<_>, Vec<_>) =
                (left.split(' ').collect(), right.split(' ').collect());
            let (root, at, options) = (left[3], left[4], left[5]);
            if !begins(volatile::MOUNTS, at) {
                self.count(
                    Kind::Mount,
                    format!("{at} ({} {} {root} {options})", right[0], right[1]),
                );
            }
        }
        Ok(())
    }

    fn take_users(&mut self, server: &dyn Server) -> Result<()> {
        for (kind, database) in [(Kind::User, "passwd"), (Kind::Group, "group")] {
            for line in ask(server, &["getent", database])?.lines() {
                let (name, rest) =
                    line.split_once(':').with_context(|| format!("getent's `{line}`"))?;
                self.put(kind, name, rest);
            }
        }
        Ok(())
    }
}

/// Any answer but none is one, "degraded" too: failed units are in the snapshot.
fn wait_until_booted(server: &dyn Server) -> Result<()> {
    let words = ["timeout", "120", "systemctl", "is-system-running", "--wait"];
    let output = server.exec(&words)?;
    let state = output.stdout_text();
    if output.code == TIMED_OUT || state.trim().is_empty() {
        bail!(
            "`{}` hasn't booted up ({}): `systemctl list-jobs` there tells what it waits for",
            server.name(),
            if output.code == TIMED_OUT { "waited 120 s".to_owned() } else { output.stderr_text() }
        );
    }
    Ok(())
}

/// Waits until no IPv6 address is tentative: the kernel adds its route only when nobody else claims it.
fn wait_for_addresses(server: &dyn Server) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(10);
    while !ask(server, &["ip", "-6", "-o", "addr", "show", "tentative", "-dadfailed"])?.is_empty() {
        if Instant::now() > limit {
            bail!("an IPv6 address of `{}` stays tentative", server.name());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Standard output of a program that has to succeed.
fn ask(server: &dyn Server, argv: &[&str]) -> Result<String> {
    let output = server.exec(argv)?;
    if !output.succeeded() {
        bail!(
            "`{}` failed on `{}`: {}",
            argv.join(" "),
            server.name(),
            output.stderr_text().trim()
        );
    }
    Ok(output.stdout_text())
}

/// Standard output of a program whose exit status says nothing here.
fn ask_anyway(server: &dyn Server, argv: &[&str]) -> Result<String> {
    Ok(server.exec(argv)?.stdout_text())
}

/// The digest of one file; `None` if it is gone. A file that is there and can't be read is an error: taken for equal, it
/// would hide whatever was done to it.
fn hash_again(server: &dyn Server, path: &str) -> Result<Option<String>> {
    let output = server.exec(&["sha256sum", "-z", "-b", "--", path])?;
    let said = output.stdout_text();
    if let Some(hash) = parse_hashes(&said).get(path) {
        return Ok(Some((*hash).to_owned()));
    }
    if server.exec(&["test", "-e", path])?.succeeded() {
        let cause = output.stderr_text();
        bail!("cannot read `{path}` on `{}`: {}", server.name(), cause.trim());
    }
    Ok(None)
}

/// `sha256sum -z`'s answer: path to digest.
fn parse_hashes(text: &str) -> BTreeMap<&str, &str> {
    let entries = text.split('\0').filter_map(|entry| entry.split_once(" *"));
    entries.map(|(hash, path)| (path, hash)).collect()
}

/// A file's state from `find`'s `%y %#m %U:%G`, its link's target and its digest.
fn file_state(head: &str, path: &str, target: &str, hash: Option<&str>) -> Result<String> {
    let (kind, rest) = head.split_once(' ').context("no type")?;
    let content_left_out = volatile::CONTENTS.iter().any(|(left_out, _)| *left_out == path);
    Ok(match (kind, hash) {
        ("f", _) if content_left_out => format!("regular {rest}"),
        ("f", Some(hash)) => format!("regular {rest} sha256:{hash}"),
        ("f", None) => bail!("no digest"),
        // A link's mode means nothing.
        ("l", _) => format!("link {} to {target}", rest.split(' ').nth(1).unwrap_or(rest)),
        ("d", _) => format!("folder {rest}"),
        ("s", _) => format!("socket {rest}"),
        ("p", _) => format!("pipe {rest}"),
        ("c" | "b", _) => format!("device {rest}"),
        _ => bail!("unknown type `{kind}`"),
    })
}

/// A route or rule without the time it still has.
fn without_lifetime(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().filter(|word| *word != "\\").collect();
    let timed = words.iter().position(|word| *word == "expires");
    let words: Vec<_> = match timed {
        Some(at) => words
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != at && *i != at + 1)
            .map(|(_, w)| *w)
            .collect(),
        None => words,
    };
    words.join(" ")
}

/// Name and state of a link from a line of `ip -o link`: what it is joined to, flags, size, master.
fn link_state(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace().skip(1);
    let name = words.next()?.trim_end_matches(':').split('@').next()?.to_owned();
    let flags = words.next()?;
    let rest: Vec<_> = words.collect();
    let value =
        |key: &str| rest.iter().position(|w| *w == key).and_then(|at| rest.get(at + 1)).copied();
    let master = value("master").unwrap_or("none");
    Some((name, format!("{flags} mtu {} master {master}", value("mtu")?)))
}

/// Each line of a ruleset with the table and chain it stands in, without counters and remarks.
fn rules(text: &str) -> Vec<String> {
    let (mut inside, mut found) = (Vec::<String>::new(), Vec::new());
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let line = match line.split_once('[') {
            // iptables-save's counters: `:INPUT ACCEPT [0:0]`
            Some((policy, _)) if line.starts_with(':') => policy.trim(),
            _ => line,
        };
        if line == "}" {
            inside.pop();
            continue;
        }
        let whole = inside.iter().map(String::as_str).chain([line.trim_end_matches('{').trim()]);
        found.push(whole.collect::<Vec<_>>().join(" / "));
        if line.ends_with('{') {
            inside.push(line.trim_end_matches('{').trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Output;

    /// A server that answers every question alike.
    struct Same(i32, &'static str);

    impl Server for Same {
        fn name(&self) -> &str {
            "node1"
        }
        fn address(&self) -> std::net::IpAddr {
            [10, 66, 0, 11].into()
        }
        fn host_key(&self) -> &str {
            ""
        }
        fn is_running(&self) -> bool {
            true
        }
        fn exec_with_input(&self, _argv: &[&str], _input: &[u8]) -> Result<Output> {
            Ok(Output { code: self.0, stdout: self.1.into(), stderr: b"no bus".into() })
        }
        fn inflict(&self, _fault: &crate::server::Fault) -> Result<()> {
            bail!("nothing happens to it")
        }
    }

    #[test]
    fn a_server_that_has_not_booted_up_is_no_base_for_a_comparison() {
        for (code, said, wanted) in [
            (0, "running\n", ""),
            (1, "degraded\n", ""),
            (124, "", "waited 120 s"),
            (124, "starting\n", "waited 120 s"),
            (1, "", "no bus"),
        ] {
            let error = wait_until_booted(&Same(code, said)).err().map(|error| error.to_string());
            assert_eq!(error.is_none(), wanted.is_empty(), "{code} {said}: {error:?}");
            assert!(error.unwrap_or_default().contains(wanted), "{code} {said}");
        }
    }

    #[test]
    fn rules_carry_the_chain_they_stand_in() {
        let text = "table ip nat {\n\tchain out {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\
                    \t\tmasquerade\n\t}\n}\n# Generated by iptables-save\n*filter\n:INPUT ACCEPT [12:3456]\n";
        assert_eq!(
            rules(text),
            [
                "table ip nat",
                "table ip nat / chain out",
                "table ip nat / chain out / type nat hook postrouting priority srcnat; policy accept;",
                "table ip nat / chain out / masquerade",
                "*filter",
                ":INPUT ACCEPT",
            ]
        );
    }

    #[test]
    fn a_route_is_the_same_whatever_time_it_has_left() {
        let line = "default via fe80::1 dev eth0 expires 1799sec mtu 1500";
        assert_eq!(without_lifetime(line), "default via fe80::1 dev eth0 mtu 1500");
    }

    #[test]
    fn a_links_state_names_its_master() {
        let line =
            "3: veth1@if2: <BROADCAST,UP> mtu 1450 qdisc noqueue master cni0 state UP mode DEFAULT";
        let wanted = ("veth1".to_owned(), "<BROADCAST,UP> mtu 1450 master cni0".to_owned());
        assert_eq!(link_state(line), Some(wanted));
    }

    /// A server whose only regular file can't be read, or is gone when it is asked for again.
    struct Unreadable {
        gone: bool,
    }

    impl Server for Unreadable {
        fn name(&self) -> &str {
            "node1"
        }

        fn address(&self) -> std::net::IpAddr {
            std::net::Ipv4Addr::LOCALHOST.into()
        }

        fn host_key(&self) -> &str {
            ""
        }

        fn is_running(&self) -> bool {
            true
        }

        fn exec_with_input(&self, argv: &[&str], _: &[u8]) -> Result<Output> {
            let (code, stdout, stderr) = match argv[0] {
                "sh" if argv[2].contains("-printf") => (0, "f 0644 0:0\0/etc/x\0\0", ""),
                "sh" => (123, "", ""),
                "sha256sum" => (1, "", "sha256sum: /etc/x: Input/output error\n"),
                "test" => (i32::from(self.gone), "", ""),
                other => panic!("{other} is not expected"),
            };
            Ok(Output { code, stdout: stdout.into(), stderr: stderr.into() })
        }

        fn inflict(&self, fault: &crate::server::Fault) -> Result<()> {
            panic!("{fault:?} is not expected")
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_fails_the_snapshot_and_one_that_is_gone_does_not() {
        let error = Snapshot::default().take_files(&Unreadable { gone: false }).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("/etc/x") && error.contains("Input/output error"), "{error}");
        let mut snapshot = Snapshot::default();
        snapshot.take_files(&Unreadable { gone: true }).unwrap();
        assert!(snapshot.is_empty());
        assert!(file_state("? 0644 0:0", "/etc/x", "", None).is_err());
    }
}
