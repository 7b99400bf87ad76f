//! A Debian archive made with Debian's own tools and signed with gpg.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::peers::must;

/// A package: its name, version, and further control fields, one a line.
pub(crate) type Package<'a> = (&'a str, &'a str, &'a str);

/// An archive in a folder, with a gpg home of its own.
pub(crate) struct Archive {
    folder: TempDir,
}

impl Archive {
    /// An archive of these packages, signed by an Ed25519 key.
    pub(crate) fn new(packages: &[Package<'_>]) -> Self {
        let archive = Self { folder: tempfile::tempdir().unwrap() };
        let home = archive.at("gpg");
        fs_err::create_dir_all(&home).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs_err::set_permissions(&home, mode).unwrap();
        archive.new_key("archive", &["ed25519", "sign", "never"], &[]);
        for package in packages {
            archive.add(*package);
        }
        archive.publish("");
        archive.sign("archive", &[]);
        archive
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.folder.path().display())
    }

    fn gpg(&self, arguments: &[&str]) -> String {
        let home = self.at("gpg").display().to_string();
        let head = [
            "--homedir",
            &home,
            "--batch",
            "--yes",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ];
        must("gpg", &[&head[..], arguments].concat(), self.folder.path())
    }

    /// Makes a key and exports it to `NAME.gpg`, armored to `NAME.asc`.
    pub(crate) fn new_key(&self, name: &str, kind: &[&str], options: &[&str]) {
        let make = ["--quick-gen-key", name];
        self.gpg(&[options, &make[..], kind].concat());
        self.export(name);
    }

    /// A subkey that signs, beside the primary one.
    pub(crate) fn new_subkey(&self, name: &str) {
        let listed = self.gpg(&["--with-colons", "--list-keys", name]);
        let print = listed.lines().find_map(|line| line.strip_prefix("fpr:")).unwrap();
        self.gpg(&["--quick-add-key", print.trim_matches(':'), "ed25519", "sign", "never"]);
        self.export(name);
    }

    fn export(&self, name: &str) {
        let file = format!("{name}.gpg");
        self.gpg(&["--output", &file, "--export", name]);
        let file = format!("{name}.asc");
        self.gpg(&["--armor", "--output", &file, "--export", name]);
    }

    pub(crate) fn add(&self, (name, version, fields): Package<'_>) {
        let tree = self.at("tree");
        let _ = fs_err::remove_dir_all(&tree);
        fs_err::create_dir_all(tree.join("DEBIAN")).unwrap();
        let newline = if fields.is_empty() { "" } else { "\n" };
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: a <a@example.org>\n\
             Description: {name}\n{fields}{newline}"
        );
        fs_err::write(tree.join("DEBIAN/control"), control).unwrap();
        fs_err::create_dir_all(self.at("pool")).unwrap();
        let file = format!("pool/{name}_{}_amd64.deb", version.replace(':', "%3a"));
        must(
            "dpkg-deb",
            &["--build", "--root-owner-group", "tree", &file.replace("%3a", "_")],
            self.folder.path(),
        );
    }

    /// Writes the indexes and an unsigned `Release` of suite `lab`.
    pub(crate) fn publish(&self, more: &str) {
        let indexes = self.at("dists/lab/main/binary-amd64");
        fs_err::create_dir_all(&indexes).unwrap();
        let packages = must("apt-ftparchive", &["packages", "pool"], self.folder.path());
        fs_err::write(indexes.join("Packages"), packages).unwrap();
        must("xz", &["-kf", "Packages"], &indexes);
        must("gzip", &["-kfn", "Packages"], &indexes);
        let options = [
            "-o",
            "APT::FTPArchive::Release::Codename=lab",
            "-o",
            "APT::FTPArchive::Release::Suite=stable",
            "-o",
            "APT::FTPArchive::Release::Architectures=amd64",
            "-o",
            "APT::FTPArchive::Release::Components=main",
        ];
        let _ = fs_err::remove_file(self.at("dists/lab/InRelease"));
        let _ = fs_err::remove_file(self.at("Release"));
        let arguments = [&options[..], &["release", "dists/lab"]].concat();
        let release = must("apt-ftparchive", &arguments, self.folder.path());
        let (head, rest) = release.split_once("MD5Sum:").unwrap();
        fs_err::write(self.at("Release"), format!("{head}{more}MD5Sum:{rest}")).unwrap();
    }

    /// Signs it.
    pub(crate) fn sign(&self, name: &str, options: &[&str]) {
        let sign =
            ["--local-user", name, "--output", "dists/lab/InRelease", "--clearsign", "Release"];
        self.gpg(&[options, &sign[..]].concat());
    }

    /// Changes the signed text.
    pub(crate) fn edit(&self, change: impl Fn(&str) -> String) {
        let path = self.at("dists/lab/InRelease");
        let text = fs_err::read_to_string(&path).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed);
        fs_err::write(path, changed).unwrap();
    }

    /// A set of its packages, for a definition.
    pub(crate) fn set(&self, include: &str, more: &str) -> String {
        self.set_with(&self.at("archive.gpg"), include, more)
    }

    pub(crate) fn set_with(&self, keyring: &Path, include: &str, more: &str) -> String {
        format!(
            "artifacts: []\npackages:\n- name: node\n  platform: linux/amd64\n  archives:\n  - {{url: \
             \"{}\", suite: lab, components: [main], keyring: \"{}\"}}\n  include: [{include}]\n{more}",
            self.url(),
            keyring.display()
        )
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // gpg leaves an agent that waits for its home to vanish.
        let home = self.at("gpg").display().to_string();
        let _ = std::process::Command::new("gpgconf")
            .args(["--homedir", &home, "--kill", "all"])
            .status();
    }
}
