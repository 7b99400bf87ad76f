use super::*;

const MAIN: &str = "/etc/containerd/config.toml";
const BINARY: &str = "/usr/bin/nvidia-container-runtime";

fn file(path: &str, text: &str) -> ConfigFile {
    ConfigFile { path: path.to_owned(), text: text.to_owned() }
}

fn wanted(containerd: Version) -> Wanted<'static> {
    Wanted { binary: BINARY, default: false, containerd }
}

fn written(files: &[ConfigFile], wanted: &Wanted<'_>) -> (String, String) {
    match plan(MAIN, files, wanted).unwrap() {
        Edit::Write { path, text } => (path, text),
        Edit::AsWanted => panic!("nothing to write"),
    }
}

/// Hand-written, as people keep them: comments, odd quotes, a table of another's runtime.
const TWO: &str = r#"# kept by the storage team
version = 2
root = "/data/containerd" # big disk

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "r/pause:3" # mirrored
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = true # cgroup v2
    # Theirs.
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
      runtime_type = "io.containerd.kata.v2"
  [plugins.'io.containerd.snapshotter.v1.devmapper']
    pool_name = 'pool'

# The end.
"#;

/// As containerd 1.0 to 1.2 had it: no version, plugins by short names.
const ONE: &str = r#"root = "/data/containerd" # big disk
[plugins.cri]
  sandbox_image = "r/pause:3" # mirrored
  [plugins.cri.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.cri.containerd.runtimes.runc.options]
      SystemdCgroup = true # cgroup v2
  [plugins.cri.containerd.runtimes.kata] # theirs
    runtime_type = "io.containerd.kata.v2"
"#;

const THREE: &str = r#"version = 3
root = "/data/containerd"
# Ours.
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = true
"#;

#[test]
fn every_version_gets_the_runtime_and_every_foreign_line_stays() {
    for (text, plugin, containerd) in [
        (ONE, "cri", (1, 6)),
        (ONE, "cri", (1, 7)),
        (TWO, "io.containerd.grpc.v1.cri", (1, 6)),
        (TWO, "io.containerd.grpc.v1.cri", (1, 7)),
        (TWO, "io.containerd.grpc.v1.cri", (2, 1)),
        (THREE, "io.containerd.cri.v1.runtime", (2, 0)),
    ] {
        let files = [file(MAIN, text)];
        let (path, edited) = written(&files, &wanted(containerd));
        assert_eq!(path, MAIN);
        let lines: Vec<&str> = edited.lines().collect();
        for line in text.lines() {
            assert!(lines.contains(&line), "{containerd:?} lost {line:?}: {edited}");
        }
        let document: DocumentMut = edited.parse().unwrap();
        let at = |keys: &[&str]| {
            find(&document, &[["plugins", plugin].as_slice(), keys].concat())
                .map(ToString::to_string)
        };
        let runtime = ["containerd", "runtimes", "nvidia"];
        let option = |name| at(&[runtime.as_slice(), &["options", name]].concat()).unwrap();
        assert!(option("BinaryName").contains(BINARY), "{edited}");
        assert_eq!(option("SystemdCgroup").trim(), "true", "{edited}");
        assert_eq!(at(&["containerd", "default_runtime_name"]), None);
        let cdi = at(&["enable_cdi"]).map(|text| text.trim().to_owned());
        assert_eq!(cdi.as_deref(), (containerd == (1, 7)).then_some("true"), "{edited}");
        // The second time nothing is to do.
        assert_eq!(
            plan(MAIN, &[file(MAIN, &edited)], &wanted(containerd)).unwrap(),
            Edit::AsWanted
        );
    }
}

#[test]
fn the_default_runtime_is_changed_only_where_that_is_asked_for() {
    let default = Wanted { default: true, ..wanted((1, 6)) };
    let (_, edited) = written(&[file(MAIN, TWO)], &default);
    assert!(edited.contains("default_runtime_name = \"nvidia\""), "{edited}");
    let again = [file(MAIN, &edited)];
    assert_eq!(plan(MAIN, &again, &default).unwrap(), Edit::AsWanted);
    assert_eq!(plan(MAIN, &again, &wanted((1, 6))).unwrap(), Edit::AsWanted);
}

#[test]
fn a_node_without_configuration_gets_one_that_still_has_runc() {
    for (containerd, version) in [((1, 7), "version = 2\n"), ((2, 1), "version = 3\n")] {
        let (path, text) = written(&[], &wanted(containerd));
        assert_eq!(path, MAIN);
        assert!(text.contains(version) && text.contains("runtimes.runc]"), "{text}");
        assert_eq!(plan(MAIN, &[file(MAIN, &text)], &wanted(containerd)).unwrap(), Edit::AsWanted);
    }
}

#[test]
fn an_imported_folder_gets_a_file_and_the_main_one_is_not_touched() {
    let main = format!("imports = [\"/etc/containerd/conf.d/*.toml\"]\n{TWO}");
    let files = [file(MAIN, &main), file(DROP_IN, "")];
    // Whole table: this containerd takes it from the last file alone.
    let (path, old) = written(&files, &wanted((1, 7)));
    assert_eq!(path, DROP_IN);
    for line in ["sandbox_image = \"r/pause:3\" # mirrored", "runtimes.kata]", "version = 2"] {
        assert!(old.contains(line), "{line}: {old}");
    }
    assert!(!old.contains("devmapper") && !old.contains("/data/containerd"), "{old}");
    // Only ours: this one merges.
    let (path, new) = written(&files, &wanted((2, 1)));
    assert_eq!(path, DROP_IN);
    assert!(!new.contains("sandbox_image") && new.contains(BINARY), "{new}");
    assert!(new.contains("SystemdCgroup = true"), "{new}");
    for (text, containerd) in [(&old, (1, 7)), (&new, (2, 1))] {
        let files = [file(MAIN, &main), file(DROP_IN, text)];
        assert_eq!(plan(MAIN, &files, &wanted(containerd)).unwrap(), Edit::AsWanted);
    }
    // The main file has changed since: the copy follows it.
    let newer = main.replace("r/pause:3", "r/pause:4");
    let (path, text) = written(&[file(MAIN, &newer), file(DROP_IN, &old)], &wanted((1, 7)));
    assert!(path == DROP_IN && text.contains("r/pause:4") && !text.contains("r/pause:3"), "{text}");
}

#[test]
fn a_runtime_that_is_there_is_as_wanted_and_one_without_its_program_keeps_the_rest() {
    let theirs = format!(
        "{TWO}\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\n  \
         privileged_without_host_devices = true # theirs\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia.options]\n  \
         BinaryName = \"/opt/gone\"\n"
    );
    let files = [file(MAIN, &theirs)];
    assert_eq!(current_binary(&files, (1, 6)).unwrap().as_deref(), Some("/opt/gone"));
    let there = Wanted { binary: "/opt/gone", ..wanted((1, 6)) };
    assert_eq!(plan(MAIN, &files, &there).unwrap(), Edit::AsWanted);
    let (_, edited) = written(&files, &wanted((1, 6)));
    assert_eq!(edited, theirs.replace("/opt/gone", BINARY));
}

#[test]
fn what_is_not_understood_is_refused_with_the_next_thing_to_try() {
    let cri = "[plugins.\"io.containerd.grpc.v1.cri\"]\nx = 1\n";
    let importing = format!("version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n{cri}");
    let two = file(MAIN, "version = 2\n");
    for (files, told) in [
        (vec![file(MAIN, "disabled_plugins = [\"cri\"]\n")], "switches containerd's CRI"),
        (vec![file(MAIN, "version = 4\n")], "has version 4 of"),
        (vec![file(MAIN, "version = 3\n")], "has version 3 of"),
        (vec![two.clone(), file("/x.toml", "version = 3\n")], "/x.toml has version 3 of"),
        (
            vec![file(MAIN, "version = 2\ndisabled_plugins = [\"cri\"]\n")],
            "switches containerd's CRI",
        ),
        (vec![file(MAIN, "version = 2\nplugins = 3\n")], "`plugins` in"),
        (vec![file(MAIN, "version = \n")], "is no TOML"),
        (vec![two, file("/x.toml", cri)], "/x.toml is read later"),
        (
            vec![
                file(MAIN, &importing),
                file(DROP_IN, ""),
                file("/etc/containerd/conf.d/z.toml", cri),
            ],
            "z.toml is read later",
        ),
    ] {
        let misfit = plan(MAIN, &files, &wanted((1, 7))).unwrap_err();
        assert!(misfit.to_string().contains(told), "{told}: {misfit}");
        assert!(!misfit.hint().is_empty());
    }
}

#[test]
fn a_version_that_this_containerd_does_not_read_is_refused() {
    for (text, containerd, told) in
        [(ONE, (2, 0), "has version 1 of"), (THREE, (1, 7), "has version 3 of")]
    {
        let misfit = plan(MAIN, &[file(MAIN, text)], &wanted(containerd)).unwrap_err();
        assert!(misfit.to_string().contains(told), "{misfit}");
        assert!(misfit.hint().contains("containerd config migrate"));
    }
}

#[test]
fn the_dump_of_containerd_is_believed_only_where_it_shows_the_runtime() {
    let (_, edited) = written(&[file(MAIN, TWO)], &wanted((1, 6)));
    assert!(dump_has(&edited, BINARY));
    assert!(!dump_has(&edited, "/usr/bin/other"));
    assert!(!dump_has(TWO, BINARY));
    assert!(!dump_has("no toml", BINARY));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z\\[\\]=\"'\n. 0-9{},]{0,120}") {
        let files = [file(MAIN, &format!("version = 2\n{text}"))];
        drop(plan(MAIN, &files, &wanted((1, 7))));
    }
}

/// What kdc writes into each version, as files for `tests/containerd-dump.sh` to have real containerds read.
#[test]
fn what_is_written_can_be_handed_to_a_real_containerd() {
    let Some(folder) = std::env::var_os("KDC_RUNTIME_CONFIGS") else { return };
    let folder = std::path::PathBuf::from(folder);
    for (name, text, containerd) in [
        ("one-1.6", ONE, (1, 6)),
        ("one-1.7", ONE, (1, 7)),
        ("two-1.6", TWO, (1, 6)),
        ("two-1.7", TWO, (1, 7)),
        ("two-2.1", TWO, (2, 1)),
        ("three-2.1", THREE, (2, 1)),
    ] {
        let (_, edited) = written(&[file(MAIN, text)], &wanted(containerd));
        fs_err::write(folder.join(format!("{name}.toml")), edited).unwrap();
    }
    for (name, containerd) in [("imported-1.7", (1, 7)), ("imported-2.1", (2, 1))] {
        let main = format!(
            "imports = [\"{}\"]\n{TWO}",
            folder.join(format!("{name}.drop-in.toml")).display()
        );
        let (path, edited) = written(&[file(MAIN, &main), file(DROP_IN, "")], &wanted(containerd));
        assert_eq!(path, DROP_IN);
        fs_err::write(folder.join(format!("{name}.toml")), main).unwrap();
        fs_err::write(folder.join(format!("{name}.drop-in.toml")), edited).unwrap();
    }
}
