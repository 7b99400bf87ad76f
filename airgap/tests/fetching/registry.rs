//! Images from registries: a real one (`docker-registry`) with a login and a private authority, and one
//! that lies.

use std::{collections::BTreeMap, path::Path};

use base64::Engine as _;
use kdc_airgap::{Silent, create_locked};
use kdc_bundles::{index::Digest, signing::SigningKey};
use kdc_profiles::lock::BundleLock;
use serde_json::{Value, json};

use crate::peers::{Builder, Running, Server, answer, certificates, free_port, good, must, run};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Blobs of images, by digest.
#[derive(Default, Clone)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, content: &[u8], media_type: &str) -> Value {
        let digest = Digest::of(content).to_string();
        self.0.insert(digest.clone(), content.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    fn image(&mut self, architecture: &str) -> Value {
        let config = json!({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": []}});
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut zipped, architecture.repeat(5000).as_bytes()).unwrap();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add(config.to_string().as_bytes(), CONFIG),
            "layers": [self.add(&zipped.finish().unwrap(), LAYER)],
        });
        let mut descriptor = self.add(manifest.to_string().as_bytes(), MANIFEST);
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    }

    fn index(&mut self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.add(index.to_string().as_bytes(), INDEX)
    }

    /// An OCI layout for skopeo, with one image called `app`.
    fn layout(&self, folder: &Path, mut root: Value) {
        fs_err::create_dir_all(folder.join("blobs/sha256")).unwrap();
        for (digest, content) in &self.0 {
            fs_err::write(folder.join("blobs/sha256").join(&digest[7..]), content).unwrap();
        }
        fs_err::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        root["annotations"] = json!({"org.opencontainers.image.ref.name": "app"});
        let index = json!({"schemaVersion": 2, "manifests": [root]}).to_string();
        fs_err::write(folder.join("index.json"), index).unwrap();
    }
}

/// `docker-registry` with a login and a certificate of a private authority.
fn registry(folder: &Path, tls: bool, login: bool) -> (Running, u16) {
    let port = free_port();
    let mut config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {0}/data}}, delete: {{enabled: true}}}}\n\
         log: {{level: warn}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        folder.display()
    );
    if tls {
        certificates(folder, "20200101000000Z", "20991231000000Z");
        config += &format!(
            "  tls: {{certificate: {0}/server.pem, key: {0}/server.key}}\n",
            folder.display()
        );
    }
    if login {
        let line = must("htpasswd", &["-Bbn", "builder", "open sesame"], folder);
        fs_err::write(folder.join("htpasswd"), line).unwrap();
        config +=
            &format!("auth: {{htpasswd: {{realm: site, path: {}/htpasswd}}}}\n", folder.display());
    }
    fs_err::write(folder.join("config.yml"), config).unwrap();
    (Running::start("docker-registry", &["serve", "config.yml"], folder, port), port)
}

fn image(name: &str, source: &str, more: &str) -> String {
    format!(
        "artifacts:\n- {{name: {name}, kind: image, platforms: [linux/amd64, linux/arm64], \
         source: {{registry: {{image: \"{source}\"{more}}}}}}}\n"
    )
}

fn blobs_of(lock: &BundleLock) -> Vec<String> {
    let each = lock.artifacts.iter();
    each.flat_map(|one| {
        [one.digest.clone()].into_iter().chain(one.blobs.iter().map(|b| b.digest.clone()))
    })
    .collect()
}

/// Every blob of the lock comes as it was pushed, and a bundle is made of them.
fn check_content(builder: &Builder, lock: &BundleLock, blobs: &Blobs) {
    run(kdc_airgap::lock::fetch(&builder.fetcher(), lock, &mut Silent)).unwrap();
    let cache = builder.cache();
    for digest in blobs_of(lock) {
        let found = fs_err::read(cache.path(&digest.parse().unwrap())).unwrap();
        assert_eq!(found, blobs.0[&digest]);
    }
    let (key, bundle) = (SigningKey::generate().unwrap(), builder.at("out.bundle"));
    let made = create_locked(lock, builder.home.path(), &cache, &bundle, &key, &mut Silent);
    let made = made.unwrap();
    assert_eq!((made.artifacts, made.blobs), (2 + 2, 6 + 2));
    assert_eq!(builder.left(), 0);
}

#[test]
fn images_of_each_platform_come_from_a_registry_with_a_login_and_a_private_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (_registry, port) = registry(folder.path(), true, true);
    let mut blobs = Blobs::default();
    let both = [blobs.image("amd64"), blobs.image("arm64")];
    let root = blobs.index(&both);
    blobs.layout(&folder.path().join("layout"), root.clone());
    let place = format!("docker://localhost:{port}/team/app:1");
    let push = [
        "copy",
        "--all",
        "--insecure-policy",
        "--dest-tls-verify=false",
        "--dest-creds",
        "builder:open sesame",
        "oci:layout:app",
        &place,
    ];
    must("skopeo", &push, folder.path());

    // `registry.site` is what definitions call it; the mirror says where it is.
    let mut builder = Builder::new();
    builder.options.authorities = vec![folder.path().join("ca.pem")];
    builder.options.mirrors =
        vec![format!("registry.site=https://localhost:{port}/team").parse().unwrap()];
    let body = image("registry.site/app:1", "registry.site/app:1", "");
    let error = builder.refusal(&body);
    assert!(
        error.contains("no login for it is known") && error.contains("docker login"),
        "{error}"
    );

    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let login =
        |text: &str| json!({"auths": {format!("localhost:{port}"): {"auth": encode(text)}}});
    builder.put("docker.json", login("builder:guess").to_string());
    let error = builder.refusal(&body);
    assert!(error.contains("not accepted") && !error.contains("guess"), "{error}");

    builder.put("docker.json", login("builder:open sesame").to_string());
    let lock = builder.lock(&body).unwrap();
    let digests: Vec<_> = lock.artifacts.iter().map(|one| one.digest.as_str()).collect();
    assert_eq!(digests, both.each_ref().map(|one| one["digest"].as_str().unwrap()));
    assert_eq!(lock.artifacts[0].uri, "oci://registry.site/app:1");
    assert_eq!(lock.artifacts[0].media_type, MANIFEST);
    // Layers wait until a bundle is made.
    let layer = lock.artifacts[0].blobs[1].digest.parse().unwrap();
    assert!(!builder.cache().has(&layer, None));
    check_content(&builder, &lock, &blobs);

    // By the digest of the index too; another one is refused.
    let stated = root["digest"].as_str().unwrap();
    let by_digest =
        image("registry.site/app:1", "registry.site/app", &format!(", digest: \"{stated}\""));
    assert_eq!(blobs_of(&builder.lock(&by_digest).unwrap()), blobs_of(&lock));
    let other = format!(", digest: \"{}\"", Digest::of(b"other"));
    let error = builder.refusal(&image("registry.site/app:1", "registry.site/app", &other));
    assert!(error.contains("404"), "{error}");
}

#[test]
fn a_registry_on_this_machine_is_spoken_to_in_the_open() {
    let folder = tempfile::tempdir().unwrap();
    let (_registry, port) = registry(folder.path(), false, false);
    let mut blobs = Blobs::default();
    let only = blobs.image("amd64");
    blobs.layout(&folder.path().join("layout"), only.clone());
    let place = format!("docker://localhost:{port}/app:1");
    must(
        "skopeo",
        &["copy", "--insecure-policy", "--dest-tls-verify=false", "oci:layout:app", &place],
        folder.path(),
    );
    let builder = Builder::new();
    let name = format!("localhost:{port}/app:1");
    let body = format!(
        "artifacts: [{{name: \"{name}\", kind: image, platform: linux/amd64, source: {{registry: {{image: \"{name}\"}}}}}}]\n"
    );
    let lock = builder.lock(&body).unwrap();
    assert_eq!(lock.artifacts[0].digest, only["digest"].as_str().unwrap());
    let error = builder.refusal(&body.replace("amd64", "s390x"));
    assert!(error.contains("the image is for linux/amd64"), "{error}");
    let error = builder.refusal(&body.replace("app:1", "none:1"));
    assert!(error.contains("404"), "{error}");
}

/// A registry of these blobs; `tags` are what its names stand for.
fn lying(blobs: Blobs, tags: BTreeMap<&'static str, Vec<u8>>) -> Server {
    Server::start(move |question| {
        let name = question.path.rsplit('/').next().unwrap_or_default();
        let kind = format!("Content-Type: {INDEX}\r\n");
        if let Some(content) = tags.get(name) {
            return good(question, content, &kind);
        }
        match blobs.0.get(name) {
            Some(content) => good(question, content, &kind),
            None => answer("404 Not Found", "", 0, b""),
        }
    })
}

#[test]
fn a_registry_that_lies_is_refused() {
    let mut blobs = Blobs::default();
    let amd = blobs.image("amd64");
    // A hundred indexes, each in the next.
    let mut deep = amd.clone();
    for _ in 0..100 {
        deep = blobs.index(&[deep]);
    }
    let mut other = blobs.image("amd64 ");
    other["platform"] = amd["platform"].clone();
    let twice = blobs.index(&[amd.clone(), other]);
    let text = |value: &Value| blobs.0[value["digest"].as_str().unwrap()].clone();
    let mut lies = amd.clone();
    lies["digest"] = json!(Digest::of(b"not there"));
    let mut long = amd.clone();
    long["size"] = json!(100_000_000);
    let index = |entry: &Value| {
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string()
    };
    let manifest = |layers: Value| {
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": serde_json::from_slice::<Value>(&text(&amd)).unwrap()["config"]})
        .to_string()
    };
    let layer = json!({"mediaType": LAYER, "digest": Digest::of(b"x"), "size": 1});
    let two_sizes = json!([layer, {"mediaType": LAYER, "digest": Digest::of(b"x"), "size": 2}]);
    let foreign = json!([{"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": Digest::of(b"x"), "size": 1}]);
    let tags = BTreeMap::from([
        ("deep", text(&deep)),
        ("twice", text(&twice)),
        ("lies", index(&lies).into_bytes()),
        ("long", index(&long).into_bytes()),
        ("sizes", manifest(two_sizes).into_bytes()),
        ("foreign", manifest(foreign).into_bytes()),
        ("old", br#"{"schemaVersion": 1}"#.to_vec()),
        ("cut", text(&twice)[..40].to_vec()),
        ("huge", vec![b' '; 5 << 20]),
        ("text", b"hello".to_vec()),
    ]);
    let server = lying(blobs.clone(), tags);
    for (tag, part) in [
        ("deep", "nested more than 4 deep"),
        ("twice", "more than one image"),
        ("lies", "404"),
        ("long", "too large for metadata"),
        ("sizes", "listed with two sizes"),
        ("foreign", "doesn't let registries pass it on"),
        ("old", "schema 1"),
        ("cut", "can't be read"),
        ("huge", "more than 4194304 bytes"),
        ("text", "can't be read"),
    ] {
        let builder = Builder::new();
        let name = format!("127.0.0.1:{}/app:{tag}", server.port);
        let body = format!(
            "artifacts: [{{name: \"{name}\", kind: image, platform: linux/amd64, source: {{registry: {{image: \"{name}\"}}}}}}]\n"
        );
        let error = builder.refusal(&body);
        assert!(error.contains(part) && error.contains(tag), "{tag}: {error}");
    }
}

/// A manifest that is not what its digest says.
#[test]
fn a_document_with_another_digest_is_refused() {
    let mut blobs = Blobs::default();
    let amd = blobs.image("amd64");
    let index = blobs.index(std::slice::from_ref(&amd));
    let root = blobs.0[index["digest"].as_str().unwrap()].clone();
    let digest = amd["digest"].as_str().unwrap().to_owned();
    let mut changed = blobs.0[&digest].clone();
    changed[20] ^= 1;
    blobs.0.insert(digest, changed);
    let server = lying(blobs, BTreeMap::from([("1", root)]));
    let builder = Builder::new();
    let name = format!("127.0.0.1:{}/app:1", server.port);
    let body = format!(
        "artifacts: [{{name: \"{name}\", kind: image, platform: linux/amd64, source: {{registry: {{image: \"{name}\"}}}}}}]\n"
    );
    let error = builder.refusal(&body);
    assert!(error.contains("as stated"), "{error}");
}

/// The way of Docker Hub and most others: ask, be sent for a token, ask with it.
#[test]
fn a_token_is_fetched_from_where_the_registry_sends_us_and_kept_from_other_hosts() {
    let mut blobs = Blobs::default();
    let amd = blobs.image("amd64");
    let content = blobs.clone();
    let elsewhere = Server::start(move |question| {
        assert!(!question.head.contains("authorization"), "{}", question.head);
        let name = question.path.rsplit('/').next().unwrap_or_default();
        good(question, &content.0[name], "")
    });
    let root = blobs.0[amd["digest"].as_str().unwrap()].clone();
    let cdn = elsewhere.url("cdn");
    let tokens = Server::start(|_| answer("200 OK", "", 15, br#"{"token":"abc"}"#));
    let realm = tokens.url("token");
    let server = Server::start(move |question| {
        if !question.head.contains("authorization: bearer abc") {
            let ask = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"hub\"\r\n");
            return answer("401 Unauthorized", &ask, 0, b"");
        }
        let name = question.path.rsplit('/').next().unwrap_or_default();
        if question.path.contains("/blobs/") {
            return answer("307 Temporary", &format!("Location: {cdn}/{name}\r\n"), 0, b"");
        }
        good(question, &root, &format!("Content-Type: {MANIFEST}\r\n"))
    });
    let builder = Builder::new();
    let host = format!("127.0.0.1:{}", server.port);
    let login = base64::engine::general_purpose::STANDARD.encode("me:pass");
    builder.put("docker.json", json!({"auths": {host.as_str(): {"auth": login}}}).to_string());
    let name = format!("{host}/team/app:1");
    let body = format!(
        "artifacts: [{{name: \"{name}\", kind: image, platform: linux/amd64, source: {{registry: {{image: \"{name}\"}}}}}}]\n"
    );
    let lock = builder.lock(&body).unwrap();
    run(kdc_airgap::lock::fetch(&builder.fetcher(), &lock, &mut Silent)).unwrap();
    let asked = tokens.questions.lock().unwrap();
    assert!(
        asked[0].path.contains("service=hub&scope=repository%3ateam%2fapp%3apull"),
        "{}",
        asked[0].path
    );
    assert!(asked[0].head.contains("authorization: basic"), "{}", asked[0].head);
}

#[test]
fn an_identity_token_is_changed_into_another_and_never_shown() {
    let tokens = Server::start(|question| match question.head.starts_with("post /token ") {
        true => answer("200 OK", "", 22, br#"{"access_token":"abc"}"#),
        false => answer("400 Bad Request", "", 0, b""),
    });
    let realm = tokens.url("token");
    let server = Server::start(move |question| {
        if !question.head.contains("authorization: bearer abc") {
            let ask = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"hub\"\r\n");
            return answer("401 Unauthorized", &ask, 0, b"");
        }
        answer("404 Not Found", "", 0, b"")
    });
    let builder = Builder::new();
    let host = format!("127.0.0.1:{}", server.port);
    let login = json!({"auths": {host.as_str(): {"identitytoken": "s3cret"}}});
    builder.put("docker.json", login.to_string());
    let name = format!("{host}/team/app:1");
    let body = format!(
        "artifacts: [{{name: \"{name}\", kind: image, source: {{registry: {{image: \"{name}\"}}}}}}]\n"
    );
    let error = builder.refusal(&body);
    assert!(error.contains("404") && !error.contains("s3cret"), "{error}");
    assert_eq!(tokens.questions.lock().unwrap().len(), 1);
    // A realm elsewhere that is not protected is sent nothing.
    let open = Server::start(|_| {
        let ask = "WWW-Authenticate: Bearer realm=\"http://192.0.2.1/token\"\r\n";
        answer("401 Unauthorized", ask, 0, b"")
    });
    let error = builder.refusal(&body.replace(&host, &format!("127.0.0.1:{}", open.port)));
    assert!(error.contains("which is not https"), "{error}");
}

/// Helm, where `tests/setup.sh` puts it.
fn helm(arguments: &str, folder: &Path) -> String {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/helm/helm");
    must(program, &arguments.split_whitespace().collect::<Vec<_>>(), folder)
}

#[test]
fn charts_that_helm_pushed_to_a_registry_and_put_in_an_index_are_what_helm_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (_registry, port) = registry(at, true, false);
    helm("create app", at);
    // A registry's tags have no `+`.
    helm("package app --version 1.2.3+site.5 --destination index", at);
    let packed = "index/app-1.2.3+site.5.tgz";
    helm(&format!("push {packed} oci://localhost:{port}/charts --ca-file ca.pem"), at);
    helm("repo index index", at);
    let root = at.to_owned();
    let pages = Server::start(move |question| match fs_err::read(root.join(&question.path)) {
        Ok(content) => good(question, &content, ""),
        Err(_) => answer("404 Not Found", "", 0, b""),
    });

    let mut builder = Builder::new();
    builder.options.authorities = vec![at.join("ca.pem")];
    builder.options.mirrors =
        vec![format!("registry.site=https://localhost:{port}").parse().unwrap()];
    for repository in ["oci://registry.site/charts".to_owned(), pages.url("index")] {
        let body = |version: &str| {
            format!(
                "artifacts:\n- {{name: app, kind: chart, source: {{helm: {{repository: \"{repository}\", chart: app, version: {version}}}}}}}\n\
                 ignoreImages: ['nginx:*', 'busybox:*', 'busybox']\n"
            )
        };
        let lock = builder.lock(&body("1.2.3+site.5")).unwrap();
        let chart = &lock.artifacts[0];
        assert_eq!(chart.version.as_deref(), Some("1.2.3+site.5"), "{repository}");
        assert!(chart.uri.starts_with(&repository), "{} of {repository}", chart.uri);
        run(kdc_airgap::lock::fetch(&builder.fetcher(), &lock, &mut Silent)).unwrap();
        let kept = builder.cache().path(&chart.digest.parse().unwrap());
        assert_eq!(fs_err::read(kept).unwrap(), fs_err::read(at.join(packed)).unwrap());
        let error = builder.refusal(&body("1.2.4"));
        assert!(error.contains("404") || error.contains("there is 1.2.3+site.5"), "{error}");
    }
}
