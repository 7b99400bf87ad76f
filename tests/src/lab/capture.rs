//! What tried to leave a lab: every packet on its bridge to an address outside, and every DNS question.
//!
//! Without a route out an attempt mostly fails before there is a packet; a lab made with `gateway` gives servers a
//! default route that ends at the bridge, so that the attempt itself is seen here (from the workstation it is an ARP
//! question for the outside address).

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::state::State;
use crate::lab::{network, workstation};

/// A packet that went, or tried to go, outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The packet as `tcpdump` writes it.
    pub line: String,
    /// Whether it is a DNS question.
    pub is_dns: bool,
}

/// A capture that runs; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    watchers: Vec<Child>,
}

impl Capture {
    /// Begins to capture. Networks in `inside` (pods, services) count as part of the lab.
    pub fn start(state: &State, inside: &[&str]) -> Result<Self> {
        let mut capture = Self { watchers: Vec::new() };
        for (device, filter) in
            [(network::BRIDGE, filter(state, inside)), ("lo", "dst port 53".to_owned())]
        {
            let words = [
                "tcpdump",
                "-i",
                device,
                "-n",
                "-l",
                "-t",
                "-Z",
                "root",
                "--immediate-mode",
                &filter,
            ];
            let mut command = workstation::command(state, &words)?;
            capture.watchers.push(watch(&mut command)?);
        }
        Ok(capture)
    }

    /// Ends the capture and gives every packet it saw.
    pub fn stop(mut self) -> Result<Vec<Packet>> {
        let mut packets = Vec::new();
        for watcher in &mut self.watchers {
            kill(Pid::from_raw(watcher.id() as i32), Signal::SIGINT)
                .context("tcpdump ended by itself")?;
            let mut text = String::new();
            if let Some(mut pipe) = watcher.stdout.take() {
                pipe.read_to_string(&mut text).context("cannot read what tcpdump saw")?;
            }
            watcher.wait().context("cannot wait for tcpdump")?;
            packets.extend(text.lines().filter(|line| !line.is_empty()).map(parse));
        }
        self.watchers.clear();
        Ok(packets)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        for watcher in &mut self.watchers {
            // It may have ended already; `down` finds it by its cgroup otherwise.
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
    }
}

/// What leaves: not to the lab's networks, not to a neighbour by multicast, or a DNS question to the bridge.
fn filter(state: &State, inside: &[&str]) -> String {
    let network = state.network();
    let nets = [network.as_str(), "224.0.0.0/24", "255.255.255.255/32"];
    let nets: Vec<String> = nets.iter().chain(inside).map(|net| format!("dst net {net}")).collect();
    let nets = nets.join(" or ");
    format!(
        "((ip or arp) and not ({nets})) or (ip6 and not (dst net fe80::/10 or dst net ff02::/16)) \
         or (ip and dst port 53 and dst host {})",
        state.gateway_address()
    )
}

/// Starts a `tcpdump` and waits until it listens.
fn watch(command: &mut Command) -> Result<Child> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start kdc-lab")?;
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().context("standard error is piped")?);
    while !said.contains("listening on") {
        if lines.read_line(&mut said).context("cannot read from tcpdump")? == 0 {
            // Its exit status adds nothing to what it said.
            let _ = child.wait();
            bail!("tcpdump doesn't listen (tests/setup.sh installs it): {}", said.trim());
        }
    }
    // Its closing statistics need a reader, or it would die of a broken pipe before it has written all.
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    Ok(child)
}

fn parse(line: &str) -> Packet {
    let target = line.split(" > ").nth(1).and_then(|rest| rest.split(": ").next());
    let is_dns = target.is_some_and(|target| target.ends_with(".53"));
    Packet { line: line.to_owned(), is_dns }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_questions_are_told_from_other_packets() {
        for (line, is_dns) in [
            ("IP 10.66.0.11.48710 > 10.66.0.1.53: 1234+ A? example.org. (29)", true),
            ("IP 10.66.0.11.53 > 192.0.2.1.443: Flags [S], seq 1", false),
            ("ARP, Request who-has 192.0.2.7 tell 10.66.0.1, length 28", false),
        ] {
            assert_eq!(parse(line).is_dns, is_dns, "{line}");
        }
    }
}
