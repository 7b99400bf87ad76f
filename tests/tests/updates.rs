//! A site that has the old bundle and an update gets the builder's new bundle, byte for byte, or nothing at all.
//!
//! What is in the bundles is packed by the programs that pack it in earnest: `dpkg-deb` and `gzip`.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use kdc_tests::{operator::built, program::must};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A folder that is builder and site in one.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.expect("bundle key new -o key --unencrypted", 0, "");
        desk.expect("bundle key new -o other --unencrypted", 0, "");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new(built("kdc-install").unwrap());
        command
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .stdin(std::process::Stdio::null());
        command.args(arguments.split_whitespace()).output().unwrap()
    }

    fn expect(&self, arguments: &str, code: i32, said: &str) {
        let output = self.run(arguments);
        let text =
            [output.stdout, output.stderr].map(|part| String::from_utf8(part).unwrap()).concat();
        assert_eq!(output.status.code(), Some(code), "`{arguments}`: {text}");
        assert!(text.contains(said), "`{arguments}` has to say `{said}`: {text}");
    }

    /// Creates a bundle: a program, a package and an archive, all with the same content.
    fn bundle(&self, name: &str, program: &[u8]) {
        let folder = self.path(&format!("{name}.d"));
        fs_err::create_dir_all(folder.join("package/DEBIAN")).unwrap();
        fs_err::write(folder.join("program"), program).unwrap();
        fs_err::write(folder.join("package/program"), program).unwrap();
        let control = format!(
            "Package: sample\nVersion: {name}\nArchitecture: amd64\nMaintainer: nobody\nDescription: none\n"
        );
        fs_err::write(
            folder.join("package/DEBIAN/control"),
            control.replace("old", "1").replace("new", "2").replace("foreign", "3"),
        )
        .unwrap();
        let word = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        must(&["dpkg-deb", "-Zxz", "--build", &word("package"), &word("package.deb")]).unwrap();
        must(&["tar", "-czf", &word("archive.tar.gz"), "-C", &word("package"), "program"]).unwrap();
        let definition = format!(
            "apiVersion: kdc.dev/v1\nkind: BundleDefinition\nmetadata: {{name: sample, version: {name}}}\nartifacts:\n\
             - {{name: program, kind: binary, platform: linux/amd64, source: {{path: {name}.d/program}}}}\n\
             - {{name: sample, kind: package, platform: linux/amd64, source: {{path: {name}.d/package.deb}}}}\n\
             - {{name: archive, kind: file, source: {{path: {name}.d/archive.tar.gz}}}}\n\
             - {{name: notes, kind: file, source: {{path: notes}}}}\n"
        );
        fs_err::write(self.path(&format!("{name}.yaml")), definition).unwrap();
        self.expect(
            &format!("bundle create -f {name}.yaml -o {name} --key key"),
            0,
            "signed with key",
        );
    }

    fn names(&self) -> Vec<String> {
        let entries = fs_err::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn length(&self, name: &str) -> usize {
        fs_err::metadata(self.path(name)).unwrap().len() as usize
    }

    /// The update in place makes the new bundle, and the builder's key proves it.
    fn makes_the_new_bundle(&self) {
        self.expect("bundle patch old update -o made --key key.pub", 0, "and proved");
        assert!(same(&self.path("made"), &self.path("new")), "the bundles differ");
        self.expect("bundle verify made --key key.pub", 0, "sample new is proved");
        fs_err::remove_file(self.path("made")).unwrap();
    }

    fn refuses(&self, arguments: &str, said: &str) {
        let before = self.names();
        self.expect(arguments, 3, said);
        assert_eq!(self.names(), before, "after `{arguments}`");
    }
}

fn same(left: &Path, right: &Path) -> bool {
    fs_err::read(left).unwrap() == fs_err::read(right).unwrap()
}

/// What a compiler might write: instructions among addresses, all of them `moved` further on.
fn program(moved: u32) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(7);
    let mut bytes = Vec::new();
    for _ in 0..40_000 {
        let address: u32 = random.random_range(0..1 << 20);
        bytes.extend((0..random.random_range(4..12)).map(|_| random.random::<u8>()));
        bytes.extend((address + moved).to_le_bytes());
    }
    bytes
}

#[test]
fn an_update_makes_the_signed_bundle_or_nothing() {
    let desk = Desk::new();
    let mut random = StdRng::seed_from_u64(8);
    let notes: Vec<u8> = (0..300_000).map(|_| random.random()).collect();
    fs_err::write(desk.path("notes"), notes).unwrap();
    desk.bundle("old", &program(0));
    desk.bundle("new", &program(64));
    desk.bundle("foreign", &program(1 << 21));

    // Every address differs, and yet all that travels is by how much.
    desk.expect("bundle diff old new -o update --key key.pub", 0, "5 are patched");
    assert!(desk.length("update") * 8 < desk.length("new"), "{} bytes", desk.length("update"));
    desk.makes_the_new_bundle();

    desk.refuses("bundle patch foreign update -o made --key key.pub", "not here");
    desk.refuses("bundle patch old update -o made --key other.pub", "not trusted");
    let good = fs_err::read(desk.path("update")).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() * 2 / 3] ^= 4;
    let longer = [good.as_slice(), &[0; 512]].concat();
    for (bad, said) in
        [(&good[..good.len() / 2], "truncated"), (&flipped, "expected"), (&longer, "more than")]
    {
        fs_err::write(desk.path("update"), bad).unwrap();
        desk.refuses("bundle patch old update -o made --key key.pub", said);
    }

    // From the site's list alone: more travels, and the same bundle comes out.
    desk.expect("bundle inventory old -o list --key key.pub", 0, "listed in");
    desk.expect("bundle diff --inventory list new -o update --key key.pub", 0, "of 6 blobs");
    assert!(desk.length("update") < desk.length("new"), "{} bytes", desk.length("update"));
    desk.makes_the_new_bundle();
}
