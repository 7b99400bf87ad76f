//! What `apply` and `up` share: look, judge, plan, agree, install, prove, report.

use std::{path::PathBuf, sync::Arc, time::Instant};

use super::{
    CommandError,
    ending::{failure_of, refuse, render_rows, rows_of, unproved},
    error::of_node,
    judge::judge,
    opened::Opened,
    report::{Notebook, Report, ReportedNode, render_time, write_private},
    site::{NodeLink, Site, close_all, links, look, open_all, unix_ms},
};
use crate::{
    fleet::{
        conduct::NodeResult,
        install::{Installed, Job, install},
    },
    plan::{self, ClusterPlan, Inputs},
    show::{
        Complaint, Exit, News, Observer, Screen,
        news::{self, Row, Stage},
    },
};
use kdc_agent::{
    step::NodePlan,
    wire::{Proof, Reply, RequestBody},
};

/// How long the proof from inside may take.
const ACCEPT_TIMEOUT_SECS: u64 = 300;

/// What the command line says about an install.
pub(crate) struct Wishes {
    pub(crate) yes: bool,
    pub(crate) parallel: usize,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) report: Option<PathBuf>,
    /// A saved plan, which must be what would be planned now.
    pub(crate) saved: Option<ClusterPlan>,
}

/// Install. Ends at Ctrl-C too: the nodes carry on by themselves.
pub(crate) async fn carry_out(
    site: &Site,
    opened: &Opened,
    wishes: &Wishes,
    screen: &Arc<Screen>,
) -> Result<(), Complaint> {
    let notebook = Notebook::new(screen.as_ref());
    let work = Work { site, opened, wishes, screen, notebook: &notebook, began: Instant::now() };
    tokio::select! {
        biased;
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Err(interrupted(notebook.has_changed())),
            Err(error) => Err(CommandError::Runtime(error).into()),
        },
        done = work.run() => done,
    }
}

/// The words after Ctrl-C.
pub(crate) fn interrupted(changed: bool) -> Complaint {
    if changed {
        return Complaint::new("KDC-018", Exit::Interrupted, "you stopped watching")
            .cause("the nodes carry on by themselves until they need one another")
            .hint("run the same command again, here or elsewhere: it attaches and finishes");
    }
    Complaint::new("KDC-018", Exit::Refused, "stopped; nothing was changed")
}

struct Work<'a> {
    site: &'a Site,
    opened: &'a Opened,
    wishes: &'a Wishes,
    screen: &'a Arc<Screen>,
    notebook: &'a Notebook<'a>,
    began: Instant,
}

impl Work<'_> {
    async fn run(&self) -> Result<(), Complaint> {
        let (site, parallel) = (self.site, self.wishes.parallel);
        let agent = self.opened.agent()?;
        let links = links(&site.cluster, site.is_local, &agent, self.screen, self.notebook)?;
        self.notebook.news(&News::Started {
            command: "apply".to_owned(),
            cluster: site.cluster.name.clone(),
            nodes: links.iter().map(|link| link.node().to_owned()).collect(),
        });
        open_all(&links, parallel, self.screen).await?;
        let plan = self.plan(&links).await?;
        let done = self.install(&links, &plan).await;
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
        let plan = plan::plan(&inputs).map_err(CommandError::Plan)?;
        let drift = self.wishes.saved.as_ref().map(|saved| saved.drift(&plan)).unwrap_or_default();
        if drift.is_empty() {
            return Ok(plan);
        }
        let mut complaint = Complaint::new(
            "KDC-012",
            Exit::Refused,
            "the saved plan is not what would be done now; nothing was changed",
        )
        .hint("look at a fresh plan: `kdc-install plan -o PLAN`");
        complaint.causes =
            drift.iter().map(|drift| format!("{}: {}", drift.what, drift.detail)).collect();
        Err(complaint)
    }

    async fn install(&self, links: &[NodeLink<'_>], plan: &ClusterPlan) -> Result<(), Complaint> {
        let plans: Vec<NodePlan> = plan.nodes.iter().map(|node| node.plan.clone()).collect();
        let blobs: Vec<_> = plan.nodes.iter().map(|node| node.blobs.clone()).collect();
        let started_unix_ms = unix_ms();
        let run = format!("{}-{:08x}", render_time(started_unix_ms), rand::random::<u32>());
        let holder = holder();
        let consent = |steps: usize| self.agree(plan, steps);
        let job = Job {
            cluster: &plan.cluster,
            plans: &plans,
            blobs: &blobs,
            load: self.opened.load(),
            holder: &holder,
            run: &run,
            parallel: self.wishes.parallel,
            consent: &consent,
        };
        match install(links, job).await {
            Ok(Installed::NothingToDo(steps)) => {
                self.nothing_to_do(plan, &steps);
                self.save_kubeconfig(links, plan, false).await
            }
            Ok(Installed::Ran { results, sent_bytes }) => {
                self.after(links, plan, &results, &sent_bytes, started_unix_ms).await
            }
            Err(stopped) => Err(refuse(stopped, links.len())),
        }
    }

    /// The operator agrees: beforehand, now, or by not being there to be asked.
    fn agree(&self, plan: &ClusterPlan, steps: usize) -> bool {
        if self.wishes.yes || self.wishes.saved.is_some() {
            return true;
        }
        let bytes: u64 = plan.nodes.iter().map(|node| node.bytes_to_send).sum();
        let question = format!(
            "Change {} node(s) of cluster `{}` ({steps} steps, at most {} to send)?",
            plan.nodes.len(),
            plan.cluster,
            crate::show::plain::render_bytes(bytes)
        );
        self.screen.confirm(&question).unwrap_or(true)
    }

    fn nothing_to_do(&self, plan: &ClusterPlan, steps: &[usize]) {
        let row = |(node, steps): (&plan::PlannedNode, &usize)| Row {
            node: node.name.clone(),
            role: node.role.as_str().to_owned(),
            result: news::NodeResult::AsWanted,
            changed: 0,
            found: u32::try_from(*steps).unwrap_or(u32::MAX),
            elapsed_ms: self.elapsed_ms(),
        };
        let nodes = plan.nodes.iter().zip(steps).map(row).collect();
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

    /// The runs are over: prove, keep the kubeconfig, report, and say how it went.
    async fn after(
        &self,
        links: &[NodeLink<'_>],
        plan: &ClusterPlan,
        results: &[NodeResult],
        sent_bytes: &[u64],
        started_unix_ms: i64,
    ) -> Result<(), Complaint> {
        let mut refusal = failure_of(results, links);
        let mut proofs = Vec::new();
        if refusal.is_none() {
            match self.accept(links, plan).await {
                Ok(proved) => {
                    refusal = unproved(&proved);
                    proofs = proved;
                }
                Err(complaint) => refusal = Some(complaint),
            }
        }
        let rows = rows_of(plan, results);
        let failures = self.notebook.failures();
        self.notebook.news(&News::Finished { elapsed_ms: self.elapsed_ms(), nodes: rows.clone() });
        self.screen.table(&render_rows(&rows));
        let saved = match &refusal {
            None => self.save_kubeconfig(links, plan, true).await,
            Some(_) => Ok(()),
        };
        let nodes = rows.into_iter().zip(plan.nodes.iter().zip(results.iter().zip(sent_bytes)));
        let nodes = nodes
            .map(|(row, (node, (result, sent)))| ReportedNode {
                row,
                address: node.address.clone(),
                run: result.run.clone(),
                sent_bytes: *sent,
            })
            .collect();
        let report = Report {
            api_version: kdc_profiles::cluster::API_VERSION,
            kind: "RunReport",
            kdc_version: env!("CARGO_PKG_VERSION"),
            cluster: plan.cluster.clone(),
            profile: plan.profile.clone(),
            bundle: plan.bundle.clone(),
            signer: self.opened.signer().to_string(),
            plan: plan.digest().map(|digest| digest.to_string()).unwrap_or_default(),
            started_unix_ms,
            elapsed_ms: self.elapsed_ms(),
            good: refusal.is_none(),
            nodes,
            failures,
            proofs,
        };
        let path = report.save(self.wishes.report.as_deref())?;
        self.screen.say(&format!("report: {}", path.display()));
        match refusal {
            Some(complaint) => Err(complaint),
            None => saved,
        }
    }

    /// Prove the cluster from inside, where the profile asks for it and the bundle has the image.
    async fn accept(
        &self,
        links: &[NodeLink<'_>],
        plan: &ClusterPlan,
    ) -> Result<Vec<Proof>, Complaint> {
        let (Some(image), Some(link)) = (&plan.test_image, control_plane(links, plan)) else {
            self.screen
                .say("the bundle has no `testImage`: the cluster was not proved from inside");
            return Ok(Vec::new());
        };
        if self.site.profile.acceptance.is_empty() {
            return Ok(Vec::new());
        }
        link.stage(Stage::Accepting);
        let request = RequestBody::Accept {
            image: image.clone(),
            nodes: plan.nodes.iter().map(|node| node.name.clone()).collect(),
            timeout_secs: ACCEPT_TIMEOUT_SECS,
        };
        match link.ask(request).await {
            Ok(Reply::Accepted { proofs }) => {
                for Proof { claim, holds, detail } in proofs.clone() {
                    self.notebook.news(&News::Proof { claim, holds, detail });
                }
                Ok(proofs)
            }
            Ok(_) => {
                Err(of_node(&crate::fleet::wrong_answer(link.node(), "accept"), Exit::Internal))
            }
            Err(error) => Err(of_node(&error, Exit::Interrupted)),
        }
    }

    /// Keep the admin kubeconfig, mode 0600; an old file stays where nothing was done.
    async fn save_kubeconfig(
        &self,
        links: &[NodeLink<'_>],
        plan: &ClusterPlan,
        replace: bool,
    ) -> Result<(), Complaint> {
        let usual = || PathBuf::from(format!("{}.kubeconfig", plan.cluster));
        let path = self.wishes.kubeconfig.clone().unwrap_or_else(usual);
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
