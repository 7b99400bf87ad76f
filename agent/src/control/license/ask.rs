//! What an installer asks before it lets nodes in: how the site would stand with the file that its cluster file names.

use kdc_profiles::cluster::Role;

use super::{
    kept::Kept,
    site::{Site, SiteError},
};
use crate::license::{Enrolled, Standing, count::Counted, open};

impl Site<'_> {
    /// How the site stands, judged now as if `file` were installed. Writes nothing.
    ///
    /// Nodes that have their receipts and that the API server doesn't know yet, because a run goes on or was
    /// interrupted, were let in and take their place; where there is no API server, receipts are all there is.
    ///
    /// # Errors
    /// When the API server can't be asked, or the node's copies can't be read.
    pub async fn standing(
        &self,
        file: Option<&str>,
        receipts: &[Enrolled],
    ) -> Result<Standing, SiteError> {
        let with_file = |kept: &mut Kept| {
            let Some(file) = file.filter(|file| !kept.has(file)) else { return };
            match open(file.as_bytes(), &self.keys) {
                Ok(_) => kept.add(file, &self.keys),
                // Seen and refused, beside what is in force.
                Err(_) => kept.files.push(file.to_owned()),
            }
        };
        let (turn, ..) = self.now(&with_file).await?;
        Ok(with_receipts(turn.standing, receipts))
    }
}

fn with_receipts(mut standing: Standing, receipts: &[Enrolled]) -> Standing {
    let mut count = standing.count.take().unwrap_or_default();
    for node in receipts {
        let counted = count.counted.iter().any(|known| known.name == node.name);
        let left_out = count.left_out.iter().any(|known| known.name == node.name);
        let takes = node.roles.iter().any(|role: &Role| standing.counts(*role));
        if takes && !counted && !left_out {
            count.counted.push(Counted {
                name: node.name.clone(),
                enrolled_at: node.enrolled_at,
                missing: false,
                gpus: node.gpus,
            });
        }
    }
    standing.count = Some(count);
    standing
}

#[cfg(test)]
mod tests {
    use kdc_bundles::signing::SigningKey;

    use super::*;
    use crate::{
        audit::Who,
        license::{
            Feature, State, Timestamp,
            entitlement::Candidate,
            envelope::{self, Purpose},
        },
    };

    fn issue(nodes: u32, from: Timestamp) -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/license/test.key");
        let key = SigningKey::load(std::path::Path::new(path), None).unwrap();
        let license = crate::license::License {
            issued_at: from,
            not_before: from,
            expires_at: Some(from.plus_days(365)),
            max_nodes: Some(nodes),
            ..crate::license::document::samples::license()
        };
        let payload = license.to_payload().unwrap();
        envelope::render(
            key.id(),
            &payload,
            &key.sign_bytes(&Purpose::License.signed_bytes(&payload)),
        )
    }

    fn receipt(name: &str, at: Timestamp) -> Enrolled {
        Enrolled {
            name: name.to_owned(),
            roles: [Role::Worker].into(),
            enrolled_at: at,
            seen_at: at,
            fingerprint: None,
            gpus: 0,
        }
    }

    #[tokio::test]
    async fn before_there_is_an_api_server_receipts_count_and_the_named_file_limits() {
        let folder = tempfile::tempdir().unwrap();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = Timestamp::from_unix(i64::try_from(since.as_secs()).unwrap());
        let site = Site::new(None, folder.path(), Who::over_ssh(""));
        let nodes = ["a", "b", "c"].map(|name| receipt(name, now));
        let file = issue(3, now);
        let standing = site.standing(Some(&file), &nodes).await.unwrap();
        assert_eq!((standing.nodes(), standing.max_nodes), (Some(3), Some(3)));
        let ask = |name: &str| {
            let node = Candidate { name: name.to_owned(), role: Role::Worker, gpus: 0 };
            standing.allows(&Feature::Enrol(vec![node]))
        };
        assert!(!ask("d").allowed);
        assert!(ask("c").allowed, "who is in is in");
        // Nothing was kept of it.
        let standing = site.standing(None, &nodes).await.unwrap();
        assert_eq!(standing.state, State::Trial);
        let bad = file.replacen("eyJ", "eyK", 1);
        let standing = site.standing(Some(&bad), &nodes).await.unwrap();
        assert_eq!((standing.state, standing.basis), (State::Invalid, State::Trial));
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0);
    }
}
