//! The licence's gate at enrolment: asked after the checks and before anything is changed, by `plan`, `apply` and `up`.
//!
//! A cluster that stands is asked how it stands (a control plane knows its trial, its clock's floor and who counts); for a
//! new one it is judged here, by the file that the cluster file names and by the trial that begins now. Where nothing
//! new is let in, the plan goes ahead whatever the answer.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use kdc_agent::{
    license::{
        Enrolled, Excess, Inputs, LicenseError, LicenseKeys, Opened, Standing, Timestamp,
        clock::{self, Anchor, ClockRecord, Look},
        envelope::{self, MAX_FILE_BYTES},
        judge, open,
        revocation::Revocations,
        state::Refused,
    },
    wire::{Reply, RequestBody},
};
use kdc_profiles::cluster::Role;

use super::{
    error::of_node,
    site::{NodeLink, Seen, Site, unix_ms},
};
use crate::{
    fleet::wrong_answer,
    plan::entitled::{Asked, Entitled},
    show::{Complaint, Exit, Screen},
    ssh::SshError,
};

/// The licence's file as the cluster file names it.
pub(crate) struct LicenseFile {
    path: PathBuf,
    /// Its text, or why there is none.
    text: Result<String, String>,
}

impl LicenseFile {
    /// The file of a site, if it names one. One that can't be read is no reason to stop: it lets nothing in.
    pub(crate) fn of(site: &Site) -> Option<Self> {
        let named = site.cluster.license.as_ref()?.file.as_ref()?;
        let path = site.folder.join(named);
        let text = read(&path).map_err(|error| error.to_string());
        Some(Self { path, text })
    }

    /// The text, where there is one.
    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref().ok()
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let most = MAX_FILE_BYTES as u64;
    fs_err::File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(std::io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(text)
}

/// Ask, tell what the operator should hear, and refuse what isn't allowed.
pub(crate) async fn gate(
    site: &Site,
    seen: &Seen,
    links: &[NodeLink<'_>],
    screen: &Screen,
) -> Result<Entitled, Complaint> {
    let now = Timestamp::from_unix(unix_ms().div_euclid(1000));
    let asked = Asked::of(&site.cluster, &site.profile, &seen.facts, now);
    let file = LicenseFile::of(site);
    let standing = match control_plane(&asked, links) {
        None => judge_here(file.as_ref(), &asked.enrolled, now),
        Some(link) => match ask(link, file.as_ref(), &asked.enrolled).await {
            Ok(standing) => standing,
            Err(error) => {
                let node = link.node();
                screen.say(&format!(
                    "`{node}` could not be asked how the licence stands ({error}): it is judged by the cluster file \
                     and the nodes' receipts alone"
                ));
                judge_here(file.as_ref(), &asked.enrolled, now)
            }
        },
    };
    let entitled = asked.judge(standing);
    match refusal(&entitled) {
        Some(refusal) => Err(refusal),
        None => {
            if let Some(warning) = entitled.standing.warning() {
                screen.say(&format!("licence: {warning}"));
            }
            Ok(entitled)
        }
    }
}

/// A control plane that is part of the cluster already.
fn control_plane<'l, 'a>(asked: &Asked, links: &'l [NodeLink<'a>]) -> Option<&'l NodeLink<'a>> {
    let planes = asked.enrolled.iter().filter(|node| node.roles.contains(&Role::ControlPlane));
    planes.filter_map(|node| links.iter().find(|link| link.node() == node.name)).next()
}

async fn ask(
    link: &NodeLink<'_>,
    file: Option<&LicenseFile>,
    enrolled: &[Enrolled],
) -> Result<Standing, SshError> {
    let file_text = file.and_then(LicenseFile::text).map(str::to_owned);
    let body = RequestBody::LicenseStanding { file: file_text, enrolled: enrolled.to_vec() };
    match link.ask(body).await? {
        Reply::LicenseStanding(standing) => Ok(*standing),
        _ => Err(wrong_answer(link.node(), "licenseStanding")),
    }
}

/// How a cluster stands that nobody can be asked of: a new one.
fn judge_here(file: Option<&LicenseFile>, enrolled: &[Enrolled], now: Timestamp) -> Standing {
    let keys = LicenseKeys::built_in();
    let keys = keys.unwrap_or_default();
    let opened = file.map(|file| (file, open_file(file, &keys)));
    let (mut licenses, mut refused) = (Vec::new(), None);
    match opened {
        Some((_, Ok(opened))) => licenses.push(opened.license),
        Some((file, Err(why))) => {
            let id = file.text().and_then(|text| envelope::inspect_unproved(text.as_bytes()).ok());
            let why = format!("`{}`: {why}", file.path.display());
            refused = Some(Refused { id: id.map(|(_, license)| license.id), why });
        }
        None => {}
    }
    let issued = licenses.iter().map(|license| (Anchor::LicenseIssued, license.issued_at));
    let look = Look { wall: now, boottime: 0, boot_id: String::new(), anchors: issued.collect() };
    let (reading, _) = clock::judge(&ClockRecord::default(), &look);
    judge(&Inputs {
        clock: &reading,
        cluster: None,
        trial: None,
        licenses: &licenses,
        revoked: &Revocations::default(),
        refused: refused.as_ref(),
        nodes: Some(enrolled),
        excess: Excess::default(),
    })
}

fn open_file(file: &LicenseFile, keys: &LicenseKeys) -> Result<Opened, String> {
    let text = file.text.as_ref().map_err(String::clone)?;
    open(text.as_bytes(), keys).map_err(|error| match &error {
        LicenseError::Document(source) => format!("{error}: {source}; {}", error.hint()),
        _ => format!("{error}; {}", error.hint()),
    })
}

/// Why the plan isn't carried out: everything in one complaint, with who counts and what works anyway.
fn refusal(entitled: &Entitled) -> Option<Complaint> {
    let refusals = entitled.refusals();
    if refusals.is_empty() {
        return None;
    }
    let what = "the licence doesn't allow what is new in this plan; nothing was changed";
    let mut complaint = Complaint::new("KDC-034", Exit::Refused, what).hint(
        "take what is new out of the cluster file, remove a node, or name a licence for more in \
         `spec.license.file`",
    );
    complaint.causes = refusals;
    complaint.causes.extend(entitled.explained());
    Some(complaint)
}

/// The cluster keeps the licence that its file names: installed where it isn't yet.
pub(crate) async fn keep(
    site: &Site,
    links: &[NodeLink<'_>],
    holder: &str,
    screen: &Screen,
) -> Result<(), Complaint> {
    let Some(file) = LicenseFile::of(site) else { return Ok(()) };
    let planes = site.cluster.nodes.iter().filter(|node| node.role == Role::ControlPlane);
    let mut links = planes.filter_map(|node| links.iter().find(|link| link.node() == node.name));
    let (Some(text), Some(link)) = (file.text(), links.next()) else { return Ok(()) };
    let keys = LicenseKeys::built_in().unwrap_or_default();
    // What isn't good was told of before, and is never kept.
    if open(text.as_bytes(), &keys).is_err() {
        return Ok(());
    }
    let failed = |error: &SshError| {
        of_node(error, Exit::Interrupted)
            .cause("the nodes are as wanted; the licence could not be installed in the cluster")
    };
    let known = match link.ask(RequestBody::License).await {
        Ok(Reply::License(report)) => {
            report.files.iter().any(|kept| kept.file.trim() == text.trim())
        }
        Ok(_) => return Err(failed(&wrong_answer(link.node(), "license"))),
        Err(error) => return Err(failed(&error)),
    };
    if known {
        return Ok(());
    }
    link.take_hold(holder, &site.cluster.name).await.map_err(|error| failed(&error))?;
    let body = RequestBody::InstallLicense { file: text.to_owned() };
    link.ask(body).await.map_err(|error| failed(&error))?;
    screen.say(&format!("licence `{}` is installed in the cluster", file.path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use kdc_agent::license::State;
    use kdc_bundles::signing::SigningKey;

    use super::*;

    fn site(folder: &Path, license: &str) -> Site {
        let text = format!(
            "apiVersion: kdc.dev/v1\nkind: Cluster\nmetadata: {{name: demo}}\nspec:\n  license: {{{license}}}\n  \
             nodes:\n    - {{name: cp1, role: control-plane, address: 192.0.2.1}}\n"
        );
        let cluster = kdc_profiles::cluster::parse(&text, "c.yaml").unwrap();
        Site::of(cluster, folder, false).unwrap()
    }

    /// The key whose secret half lies in the repository; only debug builds take it.
    fn issue(nodes: u32, from: Timestamp) -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/license/test.key");
        let key = SigningKey::load(Path::new(path), None).unwrap();
        let payload = format!(
            r#"{{"id":"lic-1","serial":1,"type":"subscription","customer":"E","issuedAt":"{from}","notBefore":"{from}","expiresAt":"{}","maxNodes":{nodes}}}"#,
            from.plus_days(365)
        );
        let purpose = envelope::Purpose::License;
        let signature = key.sign_bytes(&purpose.signed_bytes(payload.as_bytes()));
        envelope::render(key.id(), payload.as_bytes(), &signature)
    }

    fn now() -> Timestamp {
        Timestamp::from_unix(unix_ms() / 1000)
    }

    #[test]
    fn a_new_cluster_is_judged_by_the_file_that_it_names_beside_the_cluster_file() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("l.json"), issue(7, now())).unwrap();
        let file = LicenseFile::of(&site(folder.path(), "file: l.json")).unwrap();
        let standing = judge_here(Some(&file), &[], now());
        assert_eq!(
            (standing.state, standing.max_nodes),
            (State::Valid, Some(7)),
            "{}",
            standing.reason
        );
    }

    #[test]
    fn without_a_file_the_trial_begins_and_a_bad_one_is_named_beside_it() {
        let standing = judge_here(None, &[], now());
        assert_eq!(standing.state, State::Trial);
        let folder = tempfile::tempdir().unwrap();
        let good = issue(7, now());
        fs_err::write(folder.path().join("bad.json"), good.replacen("eyJ", "eyK", 1)).unwrap();
        for (name, why) in [("bad.json", "signature"), ("none.json", "No such file")] {
            let file = LicenseFile::of(&site(folder.path(), &format!("file: {name}"))).unwrap();
            let standing = judge_here(Some(&file), &[], now());
            assert_eq!((standing.state, standing.basis), (State::Invalid, State::Trial));
            assert!(
                standing.reason.contains(why) && standing.reason.contains(name),
                "{}",
                standing.reason
            );
        }
        assert!(LicenseFile::of(&site(folder.path(), "taintOverLimit: true")).is_none());
    }

    #[test]
    fn a_licence_of_the_future_is_taken_and_the_clock_is_doubted() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("l.json"), issue(7, now().plus_days(90))).unwrap();
        let file = LicenseFile::of(&site(folder.path(), "file: l.json")).unwrap();
        let standing = judge_here(Some(&file), &[], now());
        assert_eq!((standing.state, standing.basis), (State::ClockSuspect, State::Valid));
        assert!(standing.warning().unwrap().contains("set the clock"));
    }

    #[test]
    fn the_fourth_node_on_a_licence_for_three_is_refused_with_who_counts_and_what_works() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("l.json"), issue(3, now())).unwrap();
        let text = "apiVersion: kdc.dev/v1\nkind: Cluster\nmetadata: {name: demo}\nspec:\n  \
                    license: {file: l.json}\n  nodes:\n    \
                    - {name: cp1, role: control-plane, address: 192.0.2.1}\n    \
                    - {name: w1, role: worker, address: 192.0.2.2}\n    \
                    - {name: w2, role: worker, address: 192.0.2.3}\n    \
                    - {name: w3, role: worker, address: 192.0.2.4}\n";
        let cluster = kdc_profiles::cluster::parse(text, "c.yaml").unwrap();
        let site = Site::of(cluster, folder.path(), false).unwrap();
        let mut facts = crate::plan::samples::facts(&site.cluster);
        for (name, facts) in &mut facts {
            if name != "w3" {
                facts.ownership.cluster = Some("demo".to_owned());
                facts.ownership.runs = vec!["r".to_owned()];
            }
        }
        let asked = Asked::of(&site.cluster, &site.profile, &facts, now());
        let file = LicenseFile::of(&site);
        let entitled = asked.judge(judge_here(file.as_ref(), &asked.enrolled, now()));
        let refused = refusal(&entitled).unwrap();
        assert_eq!((&*refused.code, refused.exit), ("KDC-034", Exit::Refused));
        let text = refused.render(false);
        for words in [
            "nothing was changed",
            "4 nodes would count, and the licence is for 3; counted now: `cp1`, `w1`, `w2`; new: `w3`",
            "counts: `w1`",
            "everything that runs goes on; removing nodes, repair, restart",
            "spec.license.file",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
