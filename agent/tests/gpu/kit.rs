//! Machines with GPUs: a library of the fake kind where the loader finds it, and a bus beside it.
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use kdc_agent::{
    facts::Look,
    gpu::{GpuReport, Settings, Surveyor, report::Gpu},
};

/// Four GPUs: two whole ones of which the second has room for a fault (`#1`), one cut into parts, one consumer card.
pub const FOUR: &str = include_str!("four.yaml");

const PLACES: [&str; 4] = ["0000:18:00.0", "0000:2a:00.0", "0000:3b:00.0", "0000:9a:00.0"];

/// The fake library, built once. The test's own cargo builds programs of this package only.
fn fake() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        // TARGET/PROFILE/deps/TEST
        let (profile, target) = (own.ancestors().nth(2).unwrap(), own.ancestors().nth(3).unwrap());
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--offline", "-p", "kdc-fake-nvml"]);
        build.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
        build.arg("--target-dir").arg(target);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the fake library isn't built");
        profile.join("libkdc_fake_nvml.so")
    })
}

/// A machine with GPUs.
pub struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// What NVML says; the bus shows four GPUs in any case.
    pub fn new(gpus: &str) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        fs_err::create_dir(machine.folder().join("lib")).unwrap();
        fs_err::create_dir(machine.folder().join("empty")).unwrap();
        fs_err::copy(fake(), machine.library()).unwrap();
        fs_err::write(machine.folder().join("gpus.yaml"), gpus).unwrap();
        machine.script(
            "kdc-agent",
            &format!(
                "#!/bin/sh\nexport KDC_FAKE_NVML='{0}/gpus.yaml' LD_LIBRARY_PATH='{0}/lib'\nexec '{1}' \"$@\"\n",
                machine.folder().display(),
                env!("CARGO_BIN_EXE_kdc-agent"),
            ),
        );
        for (number, place) in PLACES.iter().enumerate() {
            machine.add_to_bus(place, "nvidia");
            let folder = machine.folder().join(format!("root/proc/driver/nvidia/gpus/{place}"));
            fs_err::create_dir_all(&folder).unwrap();
            let number = number + 1;
            let uuid = format!("GPU-{}-0000-0000-0000-000000000000", number.to_string().repeat(8));
            let text =
                format!("Model: \t\t Model {number}\nIRQ:   \t\t 130\nGPU UUID: \t {uuid}\n");
            fs_err::write(folder.join("information"), text).unwrap();
        }
        machine
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn library(&self) -> PathBuf {
        self.folder().join("lib/libnvidia-ml.so.1")
    }

    /// Long enough for a healthy child on a busy machine.
    pub fn settings(&self) -> Settings {
        Settings {
            program: self.folder().join("kdc-agent"),
            library: None,
            patience: Duration::from_secs(5),
            look: Look::at(&self.folder().join("root")),
        }
    }

    pub fn survey(&self) -> GpuReport {
        Surveyor::new(self.settings()).survey()
    }

    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder().join(name);
        fs_err::write(&path, text).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub fn add_to_bus(&self, place: &str, driver: &str) {
        let root = self.folder().join("root");
        let device = root.join("sys/bus/pci/devices").join(place);
        let driver = root.join("sys/bus/pci/drivers").join(driver);
        fs_err::create_dir_all(&device).unwrap();
        fs_err::create_dir_all(&driver).unwrap();
        fs_err::write(device.join("vendor"), "0x10de\n").unwrap();
        fs_err::write(device.join("class"), "0x030200\n").unwrap();
        fs_err::os::unix::fs::symlink(driver, device.join("driver")).unwrap();
        // Its sound function is no GPU.
        let sound = device.with_file_name(place.replace(".0", ".1"));
        fs_err::create_dir_all(&sound).unwrap();
        fs_err::write(sound.join("vendor"), "0x10de\n").unwrap();
        fs_err::write(sound.join("class"), "0x040300\n").unwrap();
    }

    /// Take functions out of the library: their names, as the loader looks for them, are changed in the file.
    pub fn drop_functions(&self, names: &[&str]) {
        self.change_names(|name| names.contains(&name));
    }

    /// Take all functions but these out of the library.
    pub fn keep_only(&self, names: &[&str]) {
        self.change_names(|name| !names.contains(&name));
    }

    fn change_names(&self, go: impl Fn(&str) -> bool) {
        let mut bytes = fs_err::read(self.library()).unwrap();
        let mut gone = 0;
        for word in bytes.split_mut(|byte| *byte == 0) {
            let Ok(name) = std::str::from_utf8(word) else { continue };
            let of_nvml = name.starts_with("nvml")
                && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_');
            if of_nvml && go(name) {
                word[0] = b'x';
                gone += 1;
            }
        }
        assert!(gone > 0, "the library has no such function");
        fs_err::write(self.library(), bytes).unwrap();
    }
}

/// A GPU by NVML's number.
pub trait Pick {
    fn at(&self, index: u32) -> &Gpu;
}

impl Pick for GpuReport {
    fn at(&self, index: u32) -> &Gpu {
        self.gpus.iter().find(|gpu| gpu.index.value() == Some(&index)).unwrap()
    }
}

/// A file system that can be frozen: who writes to it then sleeps where no signal reaches.
pub struct Frozen {
    folder: tempfile::TempDir,
    /// Thaws when its input ends, so also when the test is killed.
    freezer: std::cell::RefCell<Option<Child>>,
}

impl Frozen {
    /// Nothing where the test is not root.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let frozen = Self { folder: tempfile::tempdir().unwrap(), freezer: None.into() };
        let (image, mount) = (frozen.folder.path().join("image"), frozen.mount());
        fs_err::create_dir(&mount).unwrap();
        fs_err::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image]);
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &mount]);
        fs_err::write(frozen.file(), "").unwrap();
        Some(frozen)
    }

    fn mount(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    pub fn file(&self) -> PathBuf {
        self.mount().join("file")
    }

    pub fn freeze(&self) {
        let script = r#"fsfreeze -f "$1" && echo frozen; read -r _; fsfreeze -u "$1""#;
        let mut child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(self.mount())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        self.freezer.replace(Some(child));
    }

    pub fn thaw(&self) {
        if let Some(mut child) = self.freezer.take() {
            child.stdin.take().unwrap().write_all(b"\n").unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
        // Lazily: a child that was just woken may hold its file for another moment.
        run("umount", &["-l".as_ref(), &self.mount()]);
    }
}

fn run(program: &str, arguments: &[&Path]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program}");
}
