//! The site's licence, on a control plane: looked at, installed, removed.

use std::path::Path;

use super::ServeError;
use crate::{
    audit::Who,
    control::{
        NAMESPACE,
        api::ApiServer,
        license::{
            node::FOLDER,
            site::{MAX_FILE, Site, SiteError},
        },
    },
    host::Host,
    license::Enrolled,
    step::kubectl::ADMIN_CONF,
    wire::{Failure, Reply},
};

/// How the site stands.
pub(super) fn report(host: &dyn Host, who: Who) -> Result<Reply, Failure> {
    answer(host, who, async |_| Ok(()))
}

/// Install a file, and say how the site stands then.
pub(super) fn install(host: &dyn Host, who: Who, file: &str) -> Result<Reply, Failure> {
    if file.len() > MAX_FILE {
        return Err(ServeError::LicenseSize { bytes: file.len(), limit: MAX_FILE }.into());
    }
    answer(host, who, async |site| site.install(file).await)
}

/// Remove one licence or all, and say how the site stands then.
pub(super) fn remove(host: &dyn Host, who: Who, id: Option<&str>) -> Result<Reply, Failure> {
    answer(host, who, async |site| site.remove(id).await.map(drop))
}

/// How the site would stand with a file, for an installer that is about to let nodes in.
pub(super) fn standing(
    host: &dyn Host,
    file: Option<&str>,
    enrolled: &[Enrolled],
) -> Result<Reply, Failure> {
    if let Some(file) = file.filter(|file| file.len() > MAX_FILE) {
        return Err(ServeError::LicenseSize { bytes: file.len(), limit: MAX_FILE }.into());
    }
    on_site(host, Who::over_ssh(""), async |site| {
        site.standing(file, enrolled)
            .await
            .map(|standing| Reply::LicenseStanding(Box::new(standing)))
    })
}

fn answer(
    host: &dyn Host,
    who: Who,
    deed: impl AsyncFnOnce(&Site<'_>) -> Result<(), SiteError>,
) -> Result<Reply, Failure> {
    on_site(host, who, async |site| {
        deed(site).await?;
        site.report().await.map(|report| Reply::License(Box::new(report)))
    })
}

fn on_site(
    host: &dyn Host,
    who: Who,
    ask: impl AsyncFnOnce(&Site<'_>) -> Result<Reply, SiteError>,
) -> Result<Reply, Failure> {
    let there = host.stat(ADMIN_CONF).map_err(ServeError::from)?.is_some();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|_| ServeError::Internal)?;
    runtime.block_on(async {
        let api = match there {
            true => Some(ApiServer::with(Path::new(ADMIN_CONF), NAMESPACE, None).await),
            false => None,
        };
        let api = api.transpose().map_err(|error| Failure::from(&error))?;
        let site = Site::new(api.as_ref(), Path::new(FOLDER), who);
        ask(&site).await.map_err(|error| Failure::from(&error))
    })
}
