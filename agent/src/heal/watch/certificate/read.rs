//! Where certificates lie on a node, and how they are read without reading a key.
//!
//! Files that hold keys alone (`*.key`) are never opened. Some files hold a key beside the
//! certificate (kubeconfigs, `kubelet-client-current.pem`): of those nothing but the certificate's own
//! lines leaves the buffer, which is wiped afterwards, in a process that ends at once.

use std::{io::Read as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::zeroize::Zeroizing;

use super::{Certificate, Certificates, der};
use crate::facts::Look;

/// Folders with `*.crt`, and how many levels deep they are looked into.
const TREES: &[(&str, usize)] = &[
    ("/etc/kubernetes/pki", 2),
    ("/var/lib/kubelet/pki", 0),
    ("/var/lib/rancher/rke2/server/tls", 2),
    ("/var/lib/rancher/rke2/agent", 0),
    ("/var/lib/rancher/k3s/server/tls", 2),
    ("/var/lib/rancher/k3s/agent", 0),
];

/// Kubeconfigs that carry the client's certificate in themselves.
const KUBECONFIGS: &[&str] = &[
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/rancher/rke2/rke2.yaml",
    "/etc/rancher/k3s/k3s.yaml",
];

/// Most files that are opened, most names of one folder, most bytes of one file, and most
/// certificates of one file.
const MAX_FILES: usize = 512;
const MAX_NAMES: usize = 2048;
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const MAX_IN_ONE: usize = 64;

/// Every certificate of the node, and those files besides.
pub(super) fn read(look: &Look, besides: &[String]) -> Certificates {
    let mut found = Certificates::default();
    let mut files = Vec::new();
    for (tree, depth) in TREES {
        walk(look, tree, *depth, &mut files, &mut found);
    }
    files.extend(besides.iter().cloned());
    let kubeconfigs = KUBECONFIGS.iter().map(|path| (*path).to_owned());
    let all =
        files.into_iter().map(|path| (path, false)).chain(kubeconfigs.map(|path| (path, true)));
    for (path, is_kubeconfig) in all {
        if found.read == MAX_FILES {
            found.left_out += 1;
            continue;
        }
        let given = besides.contains(&path);
        take(look, path, is_kubeconfig, given, &mut found);
    }
    found
}

/// Names of certificates in a folder. A link to a folder is not followed: it may lead anywhere.
fn walk(
    look: &Look,
    folder: &str,
    depth: usize,
    files: &mut Vec<String>,
    found: &mut Certificates,
) {
    let entries = match fs_err::read_dir(look.path(folder)) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return,
        Err(error) => return found.unreadable(folder, error.to_string()),
    };
    let mut names: Vec<(String, bool)> = entries
        .take(MAX_NAMES)
        .flatten()
        .map(|entry| {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            (entry.file_name().to_string_lossy().into_owned(), is_folder)
        })
        .collect();
    names.sort_unstable();
    for (name, is_folder) in names {
        let path = format!("{folder}/{name}");
        match is_folder {
            // Made anew whenever the server starts.
            true if depth > 0 && name != "temporary-certs" => {
                walk(look, &path, depth - 1, files, found);
            }
            false if is_certificate(&name) => files.push(path),
            _ => {}
        }
    }
}

/// Kubelet leaves each certificate it had beside the one that its link names.
fn is_certificate(name: &str) -> bool {
    name.ends_with(".crt") || name.ends_with("-current.pem")
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn take(look: &Look, path: String, is_kubeconfig: bool, given: bool, found: &mut Certificates) {
    let bytes = match load(&look.path(&path)) {
        Ok(bytes) => bytes,
        // Nobody promised that it is there; a file that the configuration names should be.
        Err(error) if is_absent(&error) && !given => return,
        Err(error) => return found.unreadable(&path, error.to_string()),
    };
    found.read += 1;
    let blocks = if is_kubeconfig { embedded(&bytes) } else { blocks(&bytes) };
    let faces: Result<Vec<der::Face>, String> =
        blocks.and_then(|blocks| blocks.iter().map(|block| der::parse(block)).collect());
    match faces {
        Ok(faces) if faces.is_empty() && is_kubeconfig => {}
        Ok(faces) if faces.is_empty() => found.unreadable(&path, "there is no certificate in it"),
        Ok(faces) => found.found.extend(judged_by(&path, &faces)),
        Err(reason) => found.unreadable(&path, reason),
    }
}

/// The one of a file's certificates that decides: of a chain the first to end, of a bundle of
/// authorities the last, since one that is left there from before harms nobody.
fn judged_by(path: &str, faces: &[der::Face]) -> Option<Certificate> {
    let face = match is_authority(path) {
        true => faces.iter().max_by_key(|face| face.until),
        false => faces.iter().min_by_key(|face| face.until),
    }?;
    let der::Face { subject, from, until } = face.clone();
    Some(Certificate { path: path.to_owned(), subject, from, until })
}

/// `ca.crt`, `front-proxy-ca.crt`, `client-ca.crt`.
pub(super) fn is_authority(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name == "ca.crt" || name.ends_with("-ca.crt") || name.contains("ca-bundle")
}

fn load(place: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // A pipe would keep the reader for ever.
    if !fs_err::metadata(place)?.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    fs_err::File::open(place)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// The certificates in a PEM file, in DER; whatever else is in there is passed over.
fn blocks(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let (mut blocks, mut inside) = (Vec::new(), None::<Vec<u8>>);
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        match (line, &mut inside) {
            (b"-----BEGIN CERTIFICATE-----", _) => inside = Some(Vec::new()),
            (b"-----END CERTIFICATE-----", Some(_)) => {
                let block = inside.take().unwrap_or_default();
                blocks.push(STANDARD.decode(block).map_err(|cause| cause.to_string())?);
                if blocks.len() > MAX_IN_ONE {
                    return Err(format!("more than {MAX_IN_ONE} certificates are in it"));
                }
            }
            (line, Some(block)) => block.extend_from_slice(line),
            (_, None) => {}
        }
    }
    match inside {
        Some(_) => Err("a certificate in it has no end".to_owned()),
        None => Ok(blocks),
    }
}

/// The client certificates that a kubeconfig carries: base64 of PEM, on one line.
fn embedded(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        let line = line.strip_prefix(b"- ").unwrap_or(line);
        let Some(value) = line.strip_prefix(b"client-certificate-data:") else { continue };
        let quotes = |byte: &u8| matches!(byte, b'"' | b'\'' | b' ');
        let start = value.iter().position(|byte| !quotes(byte)).unwrap_or(value.len());
        let end = value.iter().rposition(|byte| !quotes(byte)).map_or(start, |place| place + 1);
        let pem = STANDARD.decode(&value[start..end]).map_err(|cause| cause.to_string())?;
        found.extend(blocks(&pem)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str, until: i32) -> (String, String) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
        let wrap = |kind: &str, der: &[u8]| {
            let text = STANDARD.encode(der);
            let lines: Vec<&str> =
                text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
            format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
        };
        let certificate = parameters.self_signed(&key).unwrap();
        (wrap("CERTIFICATE", certificate.der()), wrap("PRIVATE KEY", &key.serialize_der()))
    }

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn put(&self, path: &str, text: &str) {
            let place = self.0.path().join(path);
            fs_err::create_dir_all(place.parent().unwrap()).unwrap();
            fs_err::write(place, text).unwrap();
        }

        fn read(&self, besides: &[String]) -> Certificates {
            read(&Look::at(self.0.path()), besides)
        }
    }

    #[test]
    fn certificates_are_found_where_kubeadm_kubelet_rke2_and_k3s_keep_them() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let (short, key) = pem("short", 2025);
        let (long, _) = pem("long", 2035);
        tree.put("etc/kubernetes/pki/apiserver.crt", &format!("{long}{short}"));
        tree.put("etc/kubernetes/pki/ca.crt", &format!("{short}{long}"));
        tree.put("etc/kubernetes/pki/etcd/server.crt", &short);
        tree.put("etc/kubernetes/pki/apiserver.key", "never opened, so it need not make sense");
        let config = format!(
            "users:\n- name: x\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            STANDARD.encode(&short),
            STANDARD.encode(&key)
        );
        tree.put("etc/kubernetes/admin.conf", &config);
        tree.put(
            "etc/kubernetes/kubelet.conf",
            "users:\n- user:\n    client-certificate: /x.pem\n",
        );
        tree.put("var/lib/kubelet/pki/kubelet-client-2024.pem", &short);
        tree.put("var/lib/kubelet/pki/kubelet-client-2026.pem", &format!("{key}{long}"));
        std::os::unix::fs::symlink(
            "kubelet-client-2026.pem",
            tree.0.path().join("var/lib/kubelet/pki/kubelet-client-current.pem"),
        )
        .unwrap();
        tree.put("var/lib/rancher/rke2/server/tls/etcd/peer-server-client.crt", &long);
        tree.put("var/lib/rancher/rke2/server/tls/temporary-certs/loop.crt", &short);
        tree.put("var/lib/rancher/k3s/agent/client-kubelet.crt", &long);
        let found = tree.read(&[]);
        assert_eq!(found.unreadable, []);
        let seen: Vec<(&str, &str)> =
            found.found.iter().map(|one| (one.path.as_str(), one.subject.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("/etc/kubernetes/pki/apiserver.crt", "short"),
                ("/etc/kubernetes/pki/ca.crt", "long"),
                ("/etc/kubernetes/pki/etcd/server.crt", "short"),
                ("/var/lib/kubelet/pki/kubelet-client-current.pem", "long"),
                ("/var/lib/rancher/rke2/server/tls/etcd/peer-server-client.crt", "long"),
                ("/var/lib/rancher/k3s/agent/client-kubelet.crt", "long"),
                ("/etc/kubernetes/admin.conf", "short"),
            ]
        );
    }

    #[test]
    fn what_can_not_be_read_is_told_with_its_reason_and_never_left_out() {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.put("etc/kubernetes/pki/apiserver.crt", "-----BEGIN CERTIFICATE-----\nMIIB\n");
        tree.put("etc/kubernetes/pki/b.crt", "nothing\n");
        tree.put(
            "etc/kubernetes/pki/c.crt",
            "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
        );
        tree.put(
            "etc/kubernetes/pki/d.crt",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        );
        fs_err::create_dir(tree.0.path().join("etc/kubernetes/admin.conf")).unwrap();
        let found = tree.read(&["/etc/kdc/api.crt".to_owned()]);
        assert_eq!(found.found, []);
        let told: Vec<String> =
            found.unreadable.iter().map(|one| format!("{}: {}", one.path, one.reason)).collect();
        for (told, wanted) in told.iter().zip([
            "/etc/kubernetes/pki/apiserver.crt: a certificate in it has no end",
            "/etc/kubernetes/pki/b.crt: there is no certificate in it",
            "/etc/kubernetes/pki/c.crt: Invalid",
            "/etc/kubernetes/pki/d.crt: it is no DER sequence",
            "/etc/kdc/api.crt: ",
            "/etc/kubernetes/admin.conf: it is no file",
        ]) {
            assert!(told.starts_with(wanted), "{told}");
        }
        assert_eq!(told.len(), 6, "{told:?}");
    }

    #[test]
    fn a_folder_full_of_files_is_bounded_and_says_how_many_were_left_out() {
        let tree = Tree(tempfile::tempdir().unwrap());
        let (text, _) = pem("x", 2035);
        for number in 0..=MAX_FILES {
            tree.put(&format!("etc/kubernetes/pki/{number:04}.crt"), &text);
        }
        let found = tree.read(&[]);
        assert_eq!((found.found.len(), found.read), (MAX_FILES, MAX_FILES));
        assert!(found.left_out >= 1, "{}", found.left_out);
    }
}
