//! `bundle serve`: the images of a bundle as a registry for a site.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use kdc_agent::serve::registry::{Limits, Registry, Source, SourceError};
use kdc_bundles::{index::Index, open::BundleFile};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::{BundleCommandError, load_keys, open_bundle, tls};
use crate::{
    command::arguments::KeyArguments,
    show::{Look, Screen},
};

/// Serve the images of a bundle as a read-only registry
///
/// containerd, docker, podman and skopeo can pull from it. An image keeps its whole name:
/// `registry.k8s.io/pause:3.10` is `ADDRESS/registry.k8s.io/pause:3.10`. It also is a mirror for
/// containerd (hosts.toml) and docker (registry-mirrors). Signature and index are proved before
/// anything is served, every piece when it is read. It runs until Ctrl-C or SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle serve kdc.bundle --key site.key.pub\n  \
    kdc-install bundle serve kdc.bundle --key site.key.pub --listen 10.0.0.5:5000 \\\n    \
    --tls-cert registry.pem --tls-key registry.key\n  \
    skopeo copy --src-tls-verify=false docker://127.0.0.1:5000/registry.k8s.io/pause:3.10 dir:pause")]
pub(super) struct Serve {
    /// The bundle
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    #[command(flatten)]
    keys: KeyArguments,
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Speak TLS with this certificate (PEM, its chain after it)
    #[arg(long, value_name = "CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM, readable only by you)
    #[arg(long, value_name = "KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Serving<'a> {
    bundle: &'a Path,
    name: &'a str,
    version: &'a str,
    /// Of the signed index.
    digest: String,
    /// Id of the key that signed.
    key: String,
    url: String,
    repositories: Vec<&'a str>,
}

impl Serve {
    pub(super) async fn run(&self, look: Look) -> Result<(), BundleCommandError> {
        let screen = Arc::new(Screen::new(look, 0, false));
        let keys = load_keys(&self.keys)?;
        let acceptor = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key)?),
            _ => None,
        };
        let bundle = open_bundle(&self.bundle, &keys)?;
        let index = bundle.index().clone();
        let (digest, key) = (bundle.digest().to_string(), bundle.signer().to_string());
        let registry =
            Registry::new(Told { bundle, screen: Arc::clone(&screen) }, Limits::default())?;
        let wrong = |source| BundleCommandError::Listen { address: self.listen, source };
        let listener = TcpListener::bind(self.listen).await.map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        let stop = stopped().map_err(wrong)?;
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let serving = Serving {
            bundle: &self.bundle,
            name: &index.name,
            version: &index.bundle_version,
            digest,
            key,
            url: format!("{scheme}://{address}"),
            repositories: registry.repositories().collect(),
        };
        screen.document(&serving, || serving.render());
        match acceptor {
            None => registry.serve(listener, |stream| async { Ok(stream) }, stop).await,
            Some(acceptor) => {
                let wrap = |stream| acceptor.accept(stream);
                registry.serve(listener, wrap, stop).await;
            }
        }
        screen.say("stopped");
        Ok(())
    }
}

/// Done when somebody wants this command to end.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

impl Serving<'_> {
    fn render(&self) -> String {
        let mut text = format!(
            "{} {}, proved with key {}, is served at {}\n",
            self.name, self.version, self.key, self.url
        );
        for repository in &self.repositories {
            text.push_str(&format!("  {repository}\n"));
        }
        if self.repositories.is_empty() {
            text.push_str("  there is no image in this bundle\n");
        }
        text
    }
}

/// A bundle whose damage is told to the operator, not only to the client.
struct Told {
    bundle: BundleFile,
    screen: Arc<Screen>,
}

impl Source for Told {
    fn index(&self) -> &Index {
        self.bundle.index()
    }

    fn has(&self, ordinal: usize) -> bool {
        Source::has(&self.bundle, ordinal)
    }

    fn read_piece_into(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let read = BundleFile::read_piece_into(&self.bundle, ordinal, piece, buffer);
        read.map_err(|error| {
            let path = self.bundle.path().display();
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            self.screen.say(&format!("not served from `{path}`: {error}{hint}"));
            SourceError::Unreadable(error.into())
        })
    }
}
