//! A real API server with its etcd, alone on loopback: no kubelet, no controllers, RBAC on, certificates of its own.
//!
//! For tests of what talks to Kubernetes and needs no pod to run. It is there within seconds.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{program::must, workspace::checkout};

const PATIENCE: Duration = Duration::from_secs(90);

/// A running API server; killed and cleaned up when dropped.
#[derive(Debug)]
pub struct ApiServer {
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

/// What makes a certificate: name, subject, further extensions.
const CERTIFICATES: &[(&str, &str, &str)] = &[
    (
        "server",
        "/CN=kube-apiserver",
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n",
    ),
    ("admin", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth\n"),
    ("kubelet", "/O=system:nodes/CN=system:node:w1", "extendedKeyUsage=clientAuth\n"),
];

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn programs() -> Result<(PathBuf, PathBuf)> {
    let script = checkout().join("tests/kubernetes/control-plane.sh");
    let text = must(&[script])?.stdout_text();
    let mut lines = text.lines().map(PathBuf::from);
    let (Some(kubernetes), Some(etcd)) = (lines.next(), lines.next()) else {
        bail!("two folders expected: {text}")
    };
    Ok((kubernetes.join("kube-apiserver"), etcd.join("etcd")))
}

fn make_certificates(folder: &Path) -> Result<()> {
    let at = |name: &str| folder.join(name).display().to_string();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let openssl = |arguments: &[&str]| -> Result<()> {
        let argv: Vec<&str> = ["openssl"].iter().chain(arguments).copied().collect();
        must(&argv).map(drop)
    };
    let (ca_key, ca) = (at("ca.key"), at("ca.crt"));
    let own = ["req", "-x509", "-subj", "/CN=ca", "-days", "2", "-keyout", &ca_key, "-out", &ca];
    openssl(&[&own[..], &key[..]].concat())?;
    for (name, subject, extensions) in CERTIFICATES {
        let (secret, request) = (at(&format!("{name}.key")), at(&format!("{name}.csr")));
        let (extra, out) = (at(&format!("{name}.ext")), at(&format!("{name}.crt")));
        fs_err::write(&extra, extensions)?;
        openssl(
            &[&["req", "-subj", subject, "-keyout", &secret, "-out", &request][..], &key[..]]
                .concat(),
        )?;
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &extra,
            "-out",
            &out,
        ])?;
    }
    Ok(())
}

impl ApiServer {
    /// Start one and wait until it is ready.
    ///
    /// # Errors
    /// Something is missing on this machine, or it doesn't start.
    pub fn start() -> Result<Self> {
        let (kube_apiserver, etcd) = programs()?;
        let folder = tempfile::tempdir()?;
        make_certificates(folder.path())?;
        let (clients, peers, port) = (free_port()?, free_port()?, free_port()?);
        let mut server = Self { folder, children: Vec::new() };
        let url = |port| format!("http://127.0.0.1:{port}");
        let at = |name: &str| server.folder.path().join(name).display().to_string();
        let store = [
            "--data-dir".to_owned(),
            at("etcd"),
            "--listen-client-urls".to_owned(),
            url(clients),
            "--advertise-client-urls".to_owned(),
            url(clients),
            "--listen-peer-urls".to_owned(),
            url(peers),
            "--initial-advertise-peer-urls".to_owned(),
            url(peers),
            "--initial-cluster".to_owned(),
            format!("default={}", url(peers)),
        ];
        let api = [
            format!("--etcd-servers={}", url(clients)),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--endpoint-reconciler-type=none".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            // Pods without the accounts that a controller would make.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            format!("--client-ca-file={}", at("ca.crt")),
            format!("--tls-cert-file={}", at("server.crt")),
            format!("--tls-private-key-file={}", at("server.key")),
            format!("--service-account-key-file={}", at("server.crt")),
            format!("--service-account-signing-key-file={}", at("server.key")),
            "--service-account-issuer=https://localhost".to_owned(),
        ];
        server.spawn(&etcd, &store)?;
        server.spawn(&kube_apiserver, &api)?;
        server.write_kubeconfig(port)?;
        server.await_ready(port)?;
        Ok(server)
    }

    fn spawn(&mut self, program: &Path, arguments: &[String]) -> Result<()> {
        let name = program.file_name().context("a program")?.to_string_lossy();
        let log =
            fs_err::File::create(self.folder.path().join(format!("{name}.log")))?.into_parts().0;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} can't be started", program.display()))?;
        self.children.push(child);
        Ok(())
    }

    fn write_kubeconfig(&self, port: u16) -> Result<()> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let encoded = |name: &str| -> Result<String> {
            Ok(STANDARD.encode(fs_err::read(self.folder.path().join(name))?))
        };
        let file = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "certificate-authority-data": encoded("ca.crt")?,
            }}],
            "users": [{ "name": "admin", "user": {
                "client-certificate-data": encoded("admin.crt")?, "client-key-data": encoded("admin.key")?,
            }}],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
        });
        fs_err::write(self.kubeconfig(), file.to_string())?;
        // As a kubelet has it: certificate and key in one file, which it replaces by itself.
        let pem = |name: &str| fs_err::read_to_string(self.folder.path().join(name));
        let own = self.folder.path().join("kubelet-client-current.pem");
        fs_err::write(&own, pem("kubelet.crt")? + &pem("kubelet.key")?)?;
        let file = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "default",
            "clusters": file["clusters"],
            "users": [{ "name": "default-auth", "user": { "client-certificate": own, "client-key": own } }],
            "contexts": [{ "name": "default", "context": { "cluster": "test", "user": "default-auth" } }],
        });
        Ok(fs_err::write(self.kubelet_kubeconfig(), file.to_string())?)
    }

    /// Credentials of the kubelet of node `w1`, as kubeadm's `kubelet.conf` has them.
    #[must_use]
    pub fn kubelet_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubelet.conf")
    }

    /// Credentials of an admin (`system:masters`), as kubeadm's `admin.conf` has them.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.conf")
    }

    /// `kubectl apply` of these manifests, as an admin.
    ///
    /// # Errors
    /// When it refuses.
    pub fn kubectl_apply(&self, manifests: &str) -> Result<()> {
        let kubectl = programs()?.0.with_file_name("kubectl").display().to_string();
        let file = self.kubeconfig().display().to_string();
        let argv = [kubectl.as_str(), "--kubeconfig", &file, "apply", "--filename=-"];
        crate::program::must_with_input(&argv, manifests.as_bytes()).map(drop)
    }

    /// `kubectl` with these arguments, as an admin; what it says.
    ///
    /// # Errors
    /// When it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let kubectl = programs()?.0.with_file_name("kubectl").display().to_string();
        let file = self.kubeconfig().display().to_string();
        let argv = [&[kubectl.as_str(), "--kubeconfig", &file], arguments].concat();
        Ok(must(&argv)?.stdout_text())
    }

    /// It takes connections, and has made its own namespaces and roles.
    fn await_ready(&mut self, port: u16) -> Result<()> {
        let started = Instant::now();
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let url = format!("https://127.0.0.1:{port}");
        let ask = [
            "curl".to_owned(),
            "-sf".to_owned(),
            "--fail-early".to_owned(),
            "--cacert".to_owned(),
            at("ca.crt"),
            "--cert".to_owned(),
            at("admin.crt"),
            "--key".to_owned(),
            at("admin.key"),
            format!("{url}/readyz"),
            format!("{url}/api/v1/namespaces/kube-system"),
            format!("{url}/api/v1/namespaces/default"),
        ];
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        loop {
            let connects = TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
            if connects && crate::program::run(&ask)?.succeeded() {
                return Ok(());
            }
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("it ended with {status}: {}", self.log_tail());
                }
            }
            if started.elapsed() > PATIENCE {
                bail!("not ready within {} s: {}", PATIENCE.as_secs(), self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log_tail(&self) -> String {
        let read =
            |name: &str| fs_err::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        let tail = |text: String| {
            text.lines().rev().take(8).map(str::to_owned).collect::<Vec<_>>().join("\n")
        };
        format!("{}\n{}", tail(read("kube-apiserver.log")), tail(read("etcd.log")))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // One that ended by itself needs no killing.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
