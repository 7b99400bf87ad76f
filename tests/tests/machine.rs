//! Machines, for real: restored in seconds, themselves after a reboot, and honest about what a power cut loses.
#![expect(clippy::print_stdout, reason = "a figure that the test's log is to hold")]

use std::time::{Duration, Instant};

use anyhow::Result;
use kdc_tests::{
    lab::{Lab, Wanted},
    machine::{Hardware, Machine},
    program::must,
    server::{Fault, Server},
};

fn ssh(lab: &Lab, machine: &Machine, command: &str) -> Result<String> {
    let target = format!("root@{}", machine.address());
    let key = lab.state().key.display().to_string();
    let head = ["ip", "netns", "exec", &lab.state().namespace, "ssh", "-i", &key];
    let trust = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
    let rest = ["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5", &target, command];
    Ok(must(&[&head[..], &trust[..], &rest[..]].concat())?.stdout_text())
}

fn wait_for_ssh(lab: &Lab, machine: &Machine, limit: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        match ssh(lab, machine, "true") {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > limit => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// One machine for everything: each restore costs seconds, each boot half a minute.
#[test]
fn a_machine_is_fresh_and_loses_what_was_not_synced() -> Result<()> {
    assert!(nix::unistd::geteuid().is_root(), "labs are made of namespaces: run as root");
    let name = format!("machine-{}", std::process::id());
    let lab = Lab::up(&Wanted::named(&name, 1), &|_| {})?;
    let result = prove(&lab);
    lab.down()?;
    result
}

fn prove(lab: &Lab) -> Result<()> {
    // The first restore ever builds and boots the base; the second one is the usual.
    drop(Machine::restore(lab.state(), "warm", 240, Hardware::default())?);
    let start = Instant::now();
    let mut machine = Machine::restore(lab.state(), "vm1", 241, Hardware::default())?;
    wait_for_ssh(lab, &machine, Duration::from_secs(60))?;
    println!("restored and answering SSH after {:.1?}", start.elapsed());

    let own_kernel = machine.exec(&["uname", "-r"])?.stdout_text();
    assert!(own_kernel.contains("cloud-amd64"), "{own_kernel}");
    let cgroup = machine.exec(&["stat", "-fc", "%T", "/sys/fs/cgroup"])?.stdout_text();
    assert_eq!(cgroup.trim(), "cgroup2fs");
    let target = machine.address().to_string();
    let pinged = lab.server("node1")?.exec(&["ping", "-c", "1", "-W", "5", &target])?;
    assert!(pinged.succeeded(), "a light server reaches the machine on the same bridge");

    machine.exec(&["sh", "-c", "echo kept > /kept; sync; echo lost > /lost"])?;
    machine.inflict(&Fault::Kill)?;
    machine.boot_with("kdc-lab-test=1")?;
    wait_for_ssh(lab, &machine, Duration::from_secs(300))?;
    let left = machine.exec(&["sh", "-c", "cat /kept; test -s /lost && echo there"])?;
    assert_eq!(left.stdout_text(), "kept\n", "a power cut keeps what was synced, and no more");
    assert_eq!(ssh(lab, &machine, "hostname")?, "vm1\n", "name and address survive a boot");

    let arguments = machine.exec(&["cat", "/proc/cmdline"])?.stdout_text();
    assert!(arguments.contains(" kdc-lab-test=1"), "{arguments}");
    expect_both_directions_shaped(lab, &machine)?;

    machine.exec(&["sh", "-c", "echo lost > /run/lost; echo written > /written"])?;
    machine.reboot()?;
    let left = machine.exec(&["sh", "-c", "cat /written; test -e /run/lost && echo there"])?;
    assert_eq!(
        left.stdout_text(),
        "written\n",
        "a reboot writes out what wasn't, and clears memory"
    );
    let again = machine.exec(&["cat", "/proc/cmdline"])?.stdout_text();
    assert_eq!(again, arguments, "a reboot keeps the boot arguments");

    machine.set_clock(-600)?;
    let guest: u64 = machine.exec(&["date", "+%s"])?.stdout_text().trim().parse()?;
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    assert!((host - guest).abs_diff(600) < 30, "ten minutes behind: {guest} against {host}");
    Ok(())
}

/// By what the limits let through: an emulated machine is too slow for its time to tell.
fn expect_both_directions_shaped(lab: &Lab, machine: &Machine) -> Result<()> {
    let shown = |device: &str| -> Result<String> {
        let namespace = lab.state().namespace.as_str();
        let words = ["tc", "-n", namespace, "-s", "qdisc", "show", "dev", device, "root"];
        Ok(must(&words)?.stdout_text())
    };
    let sent = |device: &str| -> Result<u64> {
        let text = shown(device)?;
        let words = text.split("Sent ").nth(1).and_then(|rest| rest.split(' ').next());
        Ok(words.unwrap_or("0").parse()?)
    };
    for _ in 0..2 {
        machine.inflict(&Fault::Shape("8mbit".to_owned()))?;
    }
    ssh(lab, machine, "head -c 200000 /dev/zero")?;
    let (to, from) = (sent("m241")?, sent("in-m241")?);
    assert!(from > 200_000 && to < 100_000, "from the machine: {from} bytes, to it: {to}");
    must(&[
        "ip",
        "netns",
        "exec",
        &lab.state().namespace,
        "ping",
        "-q",
        "-c",
        "20",
        "-i",
        "0.05",
        "-s",
        "8000",
        &machine.address().to_string(),
    ])?;
    assert!(
        sent("m241")? > to + 150_000,
        "what goes to the machine isn't limited: {}",
        shown("m241")?
    );
    for _ in 0..2 {
        machine.inflict(&Fault::Unshape)?;
    }
    assert!(!shown("m241")?.contains("tbf"), "the limit is lifted");
    ssh(lab, machine, "true").map(drop)
}
