//! Who writes: the holder of one Kubernetes Lease.
//!
//! Clocks of different nodes are never compared. A follower notes when, by its own clock, it last saw the lease
//! change; it takes the lease once nothing has changed for the lease's whole duration. A leader that could not renew
//! for two thirds of that duration stops writing by itself, so that there are never two.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    api::{ApiServer, Kind, text},
    error::ControlError,
    time,
};

/// Name of the lease.
pub const LEASE: &str = "kdc-control";

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Held {
    pub(super) holder: String,
    /// As written, never read as a time.
    pub(super) renewed: String,
    pub(super) transitions: u64,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Move {
    Create,
    Renew,
    Take,
    Wait,
}

/// What was seen of the lease, and when it last changed by the own clock.
#[derive(Debug)]
pub(super) struct Candidate {
    me: String,
    duration: Duration,
    seen: Option<(Held, Instant)>,
    /// Leading until then, unless renewed.
    until: Option<Instant>,
}

impl Candidate {
    pub(super) fn new(me: String, duration: Duration) -> Self {
        Self { me, duration, seen: None, until: None }
    }

    /// It may write now.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Who was last seen to hold it.
    pub(super) fn holder(&self) -> &str {
        self.seen.as_ref().map_or("", |(held, _)| &held.holder)
    }

    /// Note what the lease says, and what follows.
    pub(super) fn consider(&mut self, held: Option<Held>, now: Instant) -> Move {
        let Some(held) = held else {
            self.seen = None;
            return Move::Create;
        };
        if self.seen.as_ref().is_none_or(|(known, _)| *known != held) {
            self.seen = Some((held.clone(), now));
        }
        let unchanged =
            self.seen.as_ref().map_or(Duration::ZERO, |(_, at)| now.duration_since(*at));
        match () {
            () if held.holder == self.me => Move::Renew,
            () if held.holder.is_empty() || unchanged >= self.duration => Move::Take,
            () => Move::Wait,
        }
    }

    /// Look at the lease and try to hold it; `asked` is when this began, so that a slow answer costs us, not others.
    pub(super) async fn stand(
        &mut self,
        api: &ApiServer,
        asked: Instant,
    ) -> Result<bool, ControlError> {
        let there = api.get(Kind::Lease, LEASE).await?;
        let held = there.as_ref().map(read);
        let transitions = held.as_ref().map_or(0, |held| held.transitions);
        let step = self.consider(held, asked);
        let written = match (&step, there) {
            (Move::Wait, _) => {
                self.until = None;
                return Ok(false);
            }
            (Move::Create, _) => api.create(Kind::Lease, &self.object(api.namespace(), 0)).await,
            (_, Some(mut lease)) => {
                let more = u64::from(step == Move::Take);
                let acquired = lease["spec"]["acquireTime"].take();
                lease["spec"] = self.object(api.namespace(), transitions + more)["spec"].take();
                if step == Move::Renew {
                    lease["spec"]["acquireTime"] = acquired;
                }
                api.replace(Kind::Lease, &lease).await
            }
            (_, None) => return Ok(false),
        };
        match written {
            Ok(()) => {
                self.until = Some(asked + self.duration * 2 / 3);
                Ok(true)
            }
            // Another was faster. Whether we still lead says the deadline.
            Err(error) if error.is_conflict() => {
                self.until = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn object(&self, namespace: &str, transitions: u64) -> Value {
        let now = time::rfc3339_micro(time::now());
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": LEASE, "namespace": namespace },
            "spec": {
                "holderIdentity": self.me,
                "leaseDurationSeconds": self.duration.as_secs().max(1),
                "renewTime": now,
                "acquireTime": now,
                "leaseTransitions": transitions,
            }
        })
    }

    /// Hand it back, so that nobody has to wait for it to run out.
    pub(super) async fn give_up(&mut self, api: &ApiServer) {
        if self.until.take().is_none() {
            return;
        }
        let Ok(Some(mut lease)) = api.get(Kind::Lease, LEASE).await else { return };
        if read(&lease).holder == self.me {
            lease["spec"]["holderIdentity"] = "".into();
            if let Err(error) = api.replace(Kind::Lease, &lease).await {
                tracing::debug!(%error, "the lease runs out by itself");
            }
        }
    }
}

fn read(lease: &Value) -> Held {
    let spec = &lease["spec"];
    Held {
        holder: text(&spec["holderIdentity"]).to_owned(),
        renewed: text(&spec["renewTime"]).to_owned(),
        transitions: spec["leaseTransitions"].as_u64().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str, renewed: &str) -> Option<Held> {
        Some(Held { holder: holder.to_owned(), renewed: renewed.to_owned(), transitions: 0 })
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_nothing_changed_in_it_for_its_duration() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut me = Candidate::new("b".to_owned(), Duration::from_secs(15));
        // The other's clock is years away, which must not matter.
        for (second, there, wanted) in [
            (0, None, Move::Create),
            (1, held("a", "1999"), Move::Wait),
            (10, held("a", "1999"), Move::Wait),
            (12, held("a", "2090"), Move::Wait),
            (26, held("a", "2090"), Move::Wait),
            (27, held("a", "2090"), Move::Take),
            (28, held("b", "x"), Move::Renew),
            (60, held("b", "x"), Move::Renew),
            (61, held("", "x"), Move::Take),
        ] {
            assert_eq!(me.consider(there, after(second)), wanted, "second {second}");
        }
    }

    #[test]
    fn a_leader_that_can_not_renew_stops_before_another_may_take_over() {
        let start = Instant::now();
        let mut me = Candidate::new("a".to_owned(), Duration::from_secs(15));
        me.until = Some(start + Duration::from_secs(10));
        assert!(me.leads(start + Duration::from_secs(9)));
        assert!(!me.leads(start + Duration::from_secs(10)));
    }
}
