//! What `apply` and `up` share: look, judge, plan, agree, install, prove, report.

use std::{path::PathBuf, sync::Arc, time::Instant};

use super::{
    CommandError,
    arguments::InstallArguments,
    ending::{drifted, failure_of, refuse, render_rows, reported, unprovable, unproved, untouched},
    interrupt::until_ctrl_c,
    judge::judge,
    licensing,
    opened::Opened,
    report::{Notebook, Report, ReportedNode, ensure_writable, render_time, write_private},
    site::{NodeLink, Site, close_all, links, look, open_all, started, unix_ms},
};
use crate::{
    fleet::{
        install::{Installed, Job, Stopped, install},
        prove::Promise,
    },
    plan::{self, ClusterPlan, Inputs, PlanError},
    show::{
        Complaint, News, Observer, Screen,
        news::{self, Row},
    },
};
use kdc_agent::{step::NodePlan, wire::Proof};
use kdc_bundles::index::Digest;
use kdc_profiles::profile::Acceptance;

/// What the command line says about an install.
pub(crate) struct Wishes<'a> {
    /// The command's name.
    pub(crate) command: &'static str,
    pub(crate) arguments: &'a InstallArguments,
    pub(crate) parallel: usize,
    /// A saved plan, which must be what would be planned now.
    pub(crate) saved: Option<ClusterPlan>,
}

/// Install. Ends at Ctrl-C too: the nodes carry on by themselves.
pub(crate) async fn carry_out(
    site: &Site,
    opened: &Opened,
    wishes: &Wishes<'_>,
    screen: &Arc<Screen>,
) -> Result<(), Complaint> {
    let notebook = Notebook::new(screen.as_ref());
    let work = Work { site, opened, wishes, screen, notebook: &notebook, began: Instant::now() };
    until_ctrl_c(|| notebook.has_changed(), work.run()).await
}

/// What acceptance is about: the claims that can be proved, and what belongs to the cluster.
struct Bounds {
    claims: Vec<Acceptance>,
    /// A claim was left out because the bundle has no image for test pods.
    lacks_image: bool,
    inside: Vec<String>,
    pods: Vec<String>,
}

impl Bounds {
    fn of(site: &Site, plan: &ClusterPlan) -> Self {
        let mut claims = site.profile.acceptance.clone();
        let all = claims.len();
        claims.retain(|claim| plan.test_image.is_some() || !claim.needs_pods());
        let network = &site.cluster.network;
        let node = |node: &plan::PlannedNode| {
            let prefix = if node.address.contains(':') { 128 } else { 32 };
            format!("{}/{prefix}", node.address)
        };
        let mut inside: Vec<String> = plan.nodes.iter().map(node).collect();
        inside.extend([network.pod_cidr.clone(), network.service_cidr.clone()]);
        let lacks_image = claims.len() < all;
        Self { claims, lacks_image, inside, pods: vec![network.pod_cidr.clone()] }
    }
}

struct Work<'a> {
    site: &'a Site,
    opened: &'a Opened,
    wishes: &'a Wishes<'a>,
    screen: &'a Arc<Screen>,
    notebook: &'a Notebook<'a>,
    began: Instant,
}

impl Work<'_> {
    async fn run(&self) -> Result<(), Complaint> {
        let (site, parallel) = (self.site, self.wishes.parallel);
        let (report, usual) = (&self.wishes.arguments.report, PathBuf::from("report.json"));
        for path in [report.as_ref().unwrap_or(&usual), &self.kubeconfig_path()] {
            ensure_writable(path)?;
        }
        let agent = self.opened.agent()?;
        let links = links(&site.cluster, site.is_local, &agent, self.screen, self.notebook)?;
        self.notebook.news(&started(self.wishes.command, site));
        open_all(&links, parallel, self.screen).await?;
        let plan = self.plan(&links).await?;
        let mut done = self.install(&links, &plan).await;
        if done.is_ok() {
            done = licensing::keep(site, &links, &holder(), self.screen).await;
        }
        close_all(&links, parallel).await;
        done
    }

    /// Look, judge, plan; refuse what a check refuses and what a saved plan did not foresee.
    async fn plan(&self, links: &[NodeLink<'_>]) -> Result<ClusterPlan, Complaint> {
        let seen = look(links, self.wishes.parallel).await?;
        let inputs = Inputs {
            cluster: &self.site.cluster,
            profile: &self.site.profile,
            index: self.opened.index(),
            index_digest: self.opened.digest(),
            facts: &seen.facts,
        };
        let judged = judge(self.site, &seen, &inputs)?;
        if let Some(refusal) = judged.refusal() {
            return Err(refusal);
        }
        licensing::gate(self.site, &seen, links, self.screen).await?;
        let plan = plan::plan(&inputs).map_err(CommandError::Plan)?;
        let drift = self.wishes.saved.as_ref().map(|saved| saved.drift(&plan)).unwrap_or_default();
        drifted(&drift).map_or(Ok(plan), Err)
    }

    async fn install(&self, links: &[NodeLink<'_>], plan: &ClusterPlan) -> Result<(), Complaint> {
        let plans: Vec<NodePlan> = plan.nodes.iter().map(|node| node.plan.clone()).collect();
        let addresses: Vec<_> = self.site.cluster.nodes.iter().map(|node| node.address).collect();
        let started_unix_ms = unix_ms();
        let run = format!("{}-{:08x}", render_time(started_unix_ms), rand::random::<u32>());
        let holder = holder();
        let digest = plan.digest().map_err(PlanError::Json).map_err(CommandError::Plan)?;
        let bounds = Bounds::of(self.site, plan);
        let promise = self.promise(plan, &digest, &bounds);
        let nobody = std::cell::Cell::new(false);
        let consent = |steps: usize| {
            let agreed = self.agree(plan, steps);
            nobody.set(agreed.is_none());
            agreed.unwrap_or(false)
        };
        let job = Job {
            cluster: &plan.cluster,
            plans: &plans,
            addresses: &addresses,
            load: self.opened.load(),
            holder: &holder,
            run: &run,
            parallel: self.wishes.parallel,
            promise,
            consent: &consent,
        };
        let (nodes, proved, failure) = match install(links, job).await {
            Err(Stopped::Declined) if nobody.get() => {
                return Err(CommandError::NobodyToAsk { command: self.wishes.command }.into());
            }
            Err(stopped) => return Err(refuse(stopped, links.len())),
            Ok(Installed::NothingToDo(steps)) => {
                self.nothing_to_do(plan, &steps);
                return self.save_kubeconfig(links, plan, false).await;
            }
            Ok(Installed::OnlyProved { steps, proved }) => {
                self.screen.say(
                    "every step is as wanted, but that the cluster works was not on record: it was \
                     proved now",
                );
                (untouched(plan, &self.as_wanted(plan, &steps)), Some(proved), None)
            }
            Ok(Installed::Ran { results, proved }) => {
                (reported(plan, &results), proved, failure_of(&results, &self.site.cluster.nodes))
            }
        };
        if bounds.lacks_image && failure.is_none() {
            self.screen.say("the bundle has no `testImage`: what pods reach was not proved");
        }
        let (proofs, refusal) = match proved {
            None => (Vec::new(), failure),
            Some(Ok(proofs)) => {
                let refusal = unproved(&proofs);
                (proofs, refusal)
            }
            Some(Err(errors)) => (Vec::new(), Some(unprovable(&errors, links.len()))),
        };
        let report = self.report(plan, &digest, started_unix_ms, nodes, proofs, refusal.is_none());
        self.conclude(links, plan, report, refusal).await
    }

    /// What is proved at the end: each claim of the profile, as far as the bundle has the image that
    /// pods' claims need.
    fn promise<'p>(
        &'p self,
        plan: &'p ClusterPlan,
        digest: &'p Digest,
        bounds: &'p Bounds,
    ) -> Option<Promise<'p>> {
        let by = plan.nodes.iter().position(|node| Some(&*node.name) == plan.first_control_plane());
        let (cluster, index) = (&*plan.cluster, &plan.bundle.index);
        let Bounds { claims, inside, pods, .. } = bounds;
        let image = plan.test_image.as_deref().unwrap_or_default();
        let by = by?;
        (!claims.is_empty()).then_some(Promise {
            by,
            cluster,
            image,
            inside,
            pods,
            claims,
            plan: digest,
            index,
        })
    }

    /// The operator agrees: beforehand (`--yes`, a saved plan) or now. `None`: nobody can be asked.
    fn agree(&self, plan: &ClusterPlan, steps: usize) -> Option<bool> {
        if self.wishes.arguments.consent.yes || self.wishes.saved.is_some() {
            return Some(true);
        }
        let bytes: u64 = plan.nodes.iter().map(|node| node.bytes_to_send).sum();
        let question = format!(
            "Change {} node(s) of cluster `{}` ({steps} steps, at most {} to send)?",
            plan.nodes.len(),
            plan.cluster,
            crate::show::plain::render_bytes(bytes)
        );
        self.screen.confirm(&question)
    }

    fn as_wanted(&self, plan: &ClusterPlan, steps: &[usize]) -> Vec<Row> {
        let row = |(node, steps): (&plan::PlannedNode, &usize)| Row {
            node: node.name.clone(),
            role: node.role.as_str().to_owned(),
            result: news::NodeResult::AsWanted,
            changed: 0,
            found: u32::try_from(*steps).unwrap_or(u32::MAX),
            elapsed_ms: self.elapsed_ms(),
        };
        plan.nodes.iter().zip(steps).map(row).collect()
    }

    fn nothing_to_do(&self, plan: &ClusterPlan, steps: &[usize]) {
        let nodes = self.as_wanted(plan, steps);
        self.notebook.news(&News::Finished { elapsed_ms: self.elapsed_ms(), nodes });
        let steps: usize = steps.iter().sum();
        self.screen.say(&format!(
            "nothing to do: all {steps} steps on {} node(s) are as wanted; nothing was written",
            plan.nodes.len()
        ));
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn report(
        &self,
        plan: &ClusterPlan,
        digest: &Digest,
        started_unix_ms: i64,
        nodes: Vec<ReportedNode>,
        proofs: Vec<Proof>,
        good: bool,
    ) -> Report {
        Report {
            api_version: kdc_profiles::cluster::API_VERSION,
            kind: "RunReport",
            kdc_version: env!("CARGO_PKG_VERSION"),
            cluster: plan.cluster.clone(),
            profile: plan.profile.clone(),
            bundle: plan.bundle.clone(),
            signer: self.opened.signer().to_string(),
            plan: digest.to_string(),
            started_unix_ms,
            elapsed_ms: self.elapsed_ms(),
            good,
            nodes,
            failures: self.notebook.failures(),
            proofs,
        }
    }

    /// Show the table, keep the kubeconfig, save the report, and say how it went.
    async fn conclude(
        &self,
        links: &[NodeLink<'_>],
        plan: &ClusterPlan,
        report: Report,
        refusal: Option<Complaint>,
    ) -> Result<(), Complaint> {
        let rows: Vec<Row> = report.nodes.iter().map(|node| node.row.clone()).collect();
        self.screen.table(&render_rows(&rows));
        self.notebook.news(&News::Finished { elapsed_ms: report.elapsed_ms, nodes: rows });
        let saved = match &refusal {
            None => self.save_kubeconfig(links, plan, true).await,
            Some(_) => Ok(()),
        };
        let reported = report.save(self.wishes.arguments.report.as_deref());
        if let Ok(path) = &reported {
            self.screen.say(&format!("report: {}", path.display()));
        }
        match (refusal, reported) {
            // What stopped the work comes first; that there is no report is one part of it.
            (Some(mut complaint), Err(unreported)) => {
                complaint.parts.push(unreported);
                Err(complaint)
            }
            (Some(complaint), Ok(_)) => Err(complaint),
            (None, reported) => saved.and(reported.map(drop)),
        }
    }

    fn kubeconfig_path(&self) -> PathBuf {
        let usual = || PathBuf::from(format!("{}.kubeconfig", self.site.cluster.name));
        self.wishes.arguments.kubeconfig.clone().unwrap_or_else(usual)
    }

    /// Keep the admin kubeconfig, mode 0600; an old file stays where nothing was done.
    async fn save_kubeconfig(
        &self,
        links: &[NodeLink<'_>],
        plan: &ClusterPlan,
        replace: bool,
    ) -> Result<(), Complaint> {
        let path = self.kubeconfig_path();
        if !replace && path.exists() {
            return Ok(());
        }
        let Some(link) = control_plane(links, plan) else { return Ok(()) };
        let content = super::kubeconfig::fetch(link).await?;
        write_private(&path, content.expose().as_bytes(), 0o600)?;
        self.screen.say(&format!("kubeconfig: {}", path.display()));
        Ok(())
    }
}

/// Who works here, for a second installer to read.
pub(crate) fn holder() -> String {
    let id = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(id).ok().flatten().map(|user| user.name);
    let user = user.unwrap_or_else(|| format!("uid {id}"));
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.unwrap_or_else(|| "unknown host".to_owned());
    format!("{user}@{host} pid {}", std::process::id())
}

fn control_plane<'l, 'a>(
    links: &'l [NodeLink<'a>],
    plan: &ClusterPlan,
) -> Option<&'l NodeLink<'a>> {
    let first = plan.first_control_plane()?;
    links.iter().find(|link| link.node() == first)
}
