//! Locks: what they keep, when they change, and that the same lock gives the same bytes.

use kdc_airgap::{LockError, Silent, create, create_locked, definition_digest, document::EPOCH};
use kdc_bundles::{index::ArtifactKind, keys::TrustedKeys, open::BundleFile, signing::SigningKey};
use kdc_profiles::lock::{self, BundleLock};

use crate::peers::{Builder, Server, answer, definition, good, run};

/// Two addresses whose content changes each time it is asked for.
fn changing() -> Server {
    Server::start(|question| match question.path.as_str() {
        "a" | "b" => {
            let content = format!("{} {}", question.path, question.nth);
            good(question, content.as_bytes(), "")
        }
        _ => answer("404 Not Found", "", 0, b""),
    })
}

fn two(server: &Server, more: &str) -> String {
    let (a, b) = (server.url("a"), server.url("b"));
    format!(
        "artifacts:\n- {{name: a, kind: file, source: {{url: {{url: \"{a}\"}}}}{more}}}\n\
         - {{name: b, kind: file, source: {{url: {{url: \"{b}\"}}}}}}\n"
    )
}

#[test]
fn what_did_not_change_in_the_definition_keeps_what_it_was_locked_to() {
    let (server, builder) = (changing(), Builder::new());
    let first = builder.lock(&two(&server, "")).unwrap();
    assert_eq!(first.definition, definition_digest(&definition(&two(&server, ""))).as_str());
    let same = builder.lock_again(&two(&server, ""), Some(&first), &[]).unwrap();
    assert_eq!(same, first, "even its time");
    // What is said about an artifact changes without asking anybody.
    let told = builder.lock_again(&two(&server, ", roles: [worker]"), Some(&first), &[]).unwrap();
    assert_eq!(told.artifacts[0].roles, ["worker"]);
    assert_eq!(told.artifacts[0].digest, first.artifacts[0].digest);
    assert_eq!(server.questions.lock().unwrap().len(), 2);
    let updated = builder.lock_again(&two(&server, ""), Some(&first), &["b".to_owned()]).unwrap();
    assert_eq!(updated.artifacts[0], first.artifacts[0]);
    assert_ne!(updated.artifacts[1].digest, first.artifacts[1].digest);
    let error = builder.lock_again(&two(&server, ""), Some(&first), &["c".to_owned()]).unwrap_err();
    assert!(matches!(error, LockError::Unknown { .. }), "{error}");
}

#[test]
fn every_problem_is_told_at_once() {
    let (server, builder) = (changing(), Builder::new());
    let body = format!(
        "artifacts:\n- {{name: a, kind: file, source: {{url: {{url: \"{}\"}}}}}}\n\
         - {{name: b, kind: file, source: {{path: nowhere}}}}\n",
        server.url("c")
    );
    let error = builder.refusal(&body);
    assert!(error.contains("file `a`") && error.contains("file `b`"), "{error}");
}

/// Everything local and one thing from the web.
fn mixed(server: &Server) -> String {
    format!(
        "artifacts:\n- {{name: tool, kind: binary, platforms: [linux/amd64, linux/arm64], source: {{path: \"bin/tool-${{arch}}\"}}}}\n\
         - {{name: settings, kind: file, source: {{folder: settings}}}}\n\
         - {{name: a, kind: file, source: {{url: {{url: \"{}\"}}}}}}\n",
        server.url("a")
    )
}

fn fill(builder: &Builder) {
    for name in ["bin/tool-amd64", "bin/tool-arm64", "settings/one", "settings/sub/two"] {
        builder.put(name, name);
    }
}

fn build(builder: &Builder, lock: &BundleLock, key: &SigningKey) -> Result<Vec<u8>, String> {
    run(kdc_airgap::lock::fetch(&builder.fetcher(), lock, &mut Silent))
        .map_err(|e| e.to_string())?;
    let output = builder.at("out.bundle");
    create_locked(lock, builder.home.path(), &builder.cache(), &output, key, &mut Silent)
        .map_err(|error| error.to_string())?;
    Ok(fs_err::read(output).unwrap())
}

#[test]
fn the_same_lock_gives_the_same_bytes_in_two_clean_folders() {
    // The web gives the same to both; what is asked for first differs.
    let server = Server::start(|question| good(question, b"from the web", ""));
    let (one, two) = (Builder::new(), Builder::new());
    fill(&one);
    fill(&two);
    let old = std::time::SystemTime::UNIX_EPOCH;
    fs_err::File::open(two.at("settings/one")).unwrap().file().set_modified(old).unwrap();
    let lock = one.lock(&mixed(&server)).unwrap();
    let read = lock::parse(&lock.to_text(), "x").unwrap();
    assert_eq!(read, lock);
    let key = SigningKey::generate().unwrap();
    let (first, second) = (build(&one, &lock, &key).unwrap(), build(&two, &read, &key).unwrap());
    assert_eq!(first, second);
    let keys = TrustedKeys::new(vec![key.public()]).unwrap();
    let bundle = BundleFile::open(&one.at("out.bundle"), &keys).unwrap();
    let arm = bundle.index().find(ArtifactKind::Binary, "tool", "linux/arm64").unwrap();
    assert_eq!(bundle.read_blob(&arm.digest, 100).unwrap(), b"bin/tool-arm64");
    assert_eq!(arm.source.as_deref(), Some("bin/tool-arm64"));
    let settings = bundle.index().find(ArtifactKind::File, "settings", "linux/amd64").unwrap();
    assert_eq!(settings.media_type, "application/x-tar");
}

#[test]
fn local_files_that_changed_since_are_refused_and_locked_anew() {
    let server = Server::start(|question| good(question, b"from the web", ""));
    let builder = Builder::new();
    fill(&builder);
    let (body, key) = (mixed(&server), SigningKey::generate().unwrap());
    let lock = builder.lock(&body).unwrap();
    for (name, part) in [("bin/tool-amd64", "tool-amd64"), ("settings/one", "settings")] {
        let content = fs_err::read(builder.at(name)).unwrap();
        for other in [content.to_ascii_uppercase(), b"longer than it was".to_vec()] {
            builder.put(name, other);
            let error = build(&builder, &lock, &key).unwrap_err();
            assert!(error.contains("bundle lock") && error.contains(part), "{error}");
        }
        assert!(!builder.at("out.bundle").exists());
        let again = builder.lock_again(&body, Some(&lock), &[]).unwrap();
        assert_ne!(again, lock);
        build(&builder, &again, &key).unwrap();
        fs_err::remove_file(builder.at("out.bundle")).unwrap();
        builder.put(name, content);
    }
    assert_eq!(server.questions.lock().unwrap().len(), 1);
}

#[test]
fn a_blob_that_rotted_in_the_cache_is_found_out_and_fetched_again() {
    let server = Server::start(|question| good(question, b"from the web", ""));
    let builder = Builder::new();
    fill(&builder);
    let key = SigningKey::generate().unwrap();
    let lock = builder.lock(&mixed(&server)).unwrap();
    let digest = lock.artifacts.iter().find(|one| one.name == "a").unwrap().digest.parse().unwrap();
    fs_err::write(builder.cache().path(&digest), b"frOm the web").unwrap();
    let error = build(&builder, &lock, &key).unwrap_err();
    assert!(error.contains("damaged") && error.contains("run the same command again"), "{error}");
    build(&builder, &lock, &key).unwrap();
}

#[test]
fn a_definition_of_what_is_elsewhere_needs_a_lock() {
    let server = Server::start(|question| good(question, b"from the web", ""));
    let builder = Builder::new();
    fill(&builder);
    let key = SigningKey::generate().unwrap();
    let (definition, cache, output) =
        (definition(&mixed(&server)), builder.cache(), builder.at("out.bundle"));
    let result =
        create(&definition, builder.home.path(), Some(&cache), &output, &key, EPOCH, &mut Silent);
    let error = result.unwrap_err();
    assert!(error.hint().unwrap().contains("bundle lock"), "{error}");
    assert!(error.to_string().contains("file `a`") && !output.exists(), "{error}");
}

#[test]
fn a_definition_of_local_files_is_searched_for_images_without_a_lock() {
    let builder = Builder::new();
    builder.put("pod.yaml", "kind: Pod\nspec: {containers: [{image: 'busybox:1.37'}]}\n");
    let key = SigningKey::generate().unwrap();
    let body = "artifacts: [{name: pod, kind: file, source: {path: pod.yaml}}]\n";
    let (cache, output) = (builder.cache(), builder.at("out.bundle"));
    let make = |body: &str| {
        let definition = definition(body);
        create(&definition, builder.home.path(), Some(&cache), &output, &key, EPOCH, &mut Silent)
    };
    let error = make(body).unwrap_err().to_string();
    assert!(error.contains("busybox:1.37 (pod.yaml") && error.contains("no such image"), "{error}");
    make(&format!("{body}ignoreImages: [busybox:1.37]\n")).unwrap();
}

/// A chart's archive.
fn chart(files: &[(&str, &str)]) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(encoder);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn app_chart() -> Vec<u8> {
    chart(&[
        ("app/Chart.yaml", "apiVersion: v2\nname: app\nversion: 1.2.3\nappVersion: v9\n"),
        (
            "app/values.yaml",
            "image: {repository: quay.io/a/app, tag: ''}\nhook: {image: quay.io/a/hook:1}\n",
        ),
        ("app/templates/x.yaml", "image: {{ .Values.image }}\n"),
    ])
}

#[test]
fn images_that_charts_and_manifests_name_have_to_be_in_the_definition() {
    let server = Server::start(|question| match question.path.as_str() {
        "charts/index.yaml" => {
            let index = "apiVersion: v1\nentries:\n  app:\n  - {version: 1.2.3, urls: [files/app.tgz]}\n  \
                         - {version: 1.2.2, urls: [files/other.tgz]}\n";
            good(question, index.as_bytes(), "")
        }
        "charts/files/app.tgz" | "charts/files/other.tgz" => good(question, &app_chart(), ""),
        _ => answer("404 Not Found", "", 0, b""),
    });
    let builder = Builder::new();
    builder.put("pod.yaml", "kind: Pod\nspec: {containers: [{image: 'busybox:1.37'}]}\n");
    let charts = server.url("charts");
    let body = |version: &str, more: &str| {
        format!(
            "artifacts:\n- {{name: app, kind: chart, source: {{helm: {{repository: \"{charts}\", chart: app, version: {version}}}}}}}\n\
             - {{name: pod, kind: file, source: {{path: pod.yaml}}}}\n{more}"
        )
    };
    let error = builder.lock(&body("1.2.3", "")).unwrap_err();
    assert!(matches!(error, LockError::Images { .. }), "{error}");
    assert!(error.hint().unwrap().contains("ignoreImages"));
    let text = error.to_string();
    for part in [
        "chart `app`: names quay.io/a/app:v9 (app/values.yaml: image)",
        "chart `app`: names quay.io/a/hook:1 (app/values.yaml: hook)",
        "file `pod`: names docker.io/library/busybox:1.37 (pod.yaml: spec.containers[0])",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let ignore = "ignoreImages: ['quay.io/a/*', 'busybox:1.37']\n";
    let lock = builder.lock(&body("1.2.3", ignore)).unwrap();
    assert_eq!(lock.artifacts[0].version.as_deref(), Some("1.2.3"));
    assert_eq!(lock.artifacts[0].uri, server.url("charts/files/app.tgz"));
    // They are looked into again with another definition, also when the cache has lost them.
    builder.cache().remove(&lock.artifacts[0].digest.parse().unwrap()).unwrap();
    let error =
        builder.lock_again(&body("1.2.3", "ignoreImages: ['quay.io/*']\n"), Some(&lock), &[]);
    assert!(error.unwrap_err().to_string().contains("busybox"));
    for (version, part) in [("1.2.2", "the chart app 1.2.3"), ("7.0.0", "there is 1.2.3, 1.2.2")] {
        let error = builder.refusal(&body(version, ignore));
        assert!(error.contains(part), "{error}");
    }
}
