//! One node for the length of a command: opens its hand when needed, again when the network cut
//! it, and takes the hold again before anything else is asked.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use kdc_agent::wire::{Reply, RequestBody};
use tokio::{sync::Mutex, time::Instant};

use super::{Door, Hand, wrong_answer};
use crate::{
    show::{News, Observer, news::Stage},
    ssh::SshError,
};

/// How long a node may be away before the command gives up on it: a reboot fits in well.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// First and longest pause between two tries to open again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// So many sessions in a row that were lost while one thing was asked: then it is the request, not the network.
pub(super) const LOSSES: u32 = 8;

/// A session that was lost after this long was not lost of what was asked.
const LASTED: Duration = Duration::from_secs(30);

/// One node, its door, and its hand while there is one.
pub struct Link<'a, D: Door> {
    door: D,
    observer: &'a dyn Observer,
    hand: Mutex<Option<Rc<D::Hand>>>,
    /// What the hold was taken with; it ends with the session and is taken again with the next.
    hold: RefCell<Option<RequestBody>>,
    openings: Cell<u32>,
}

impl<'a, D: Door> Link<'a, D> {
    /// A link that opens at its first use.
    pub fn new(door: D, observer: &'a dyn Observer) -> Self {
        Self {
            door,
            observer,
            hand: Mutex::new(None),
            hold: RefCell::new(None),
            openings: Cell::new(0),
        }
    }

    /// Node name.
    pub fn node(&self) -> &str {
        self.door.node()
    }

    /// Tell what the installer turns to on this node.
    pub fn stage(&self, stage: Stage) {
        self.observer.news(&News::Stage { node: self.node().to_owned(), stage });
    }

    /// How often it was opened: more than once where the network cut it.
    pub fn openings(&self) -> u32 {
        self.openings.get()
    }

    /// The observer of this command.
    pub fn observer(&self) -> &'a dyn Observer {
        self.observer
    }

    /// The open hand. The first time one try must do; later a node that can't be reached gets
    /// [`PATIENCE`], with growing pauses.
    ///
    /// # Errors
    /// The first try failed, patience ran out, or the failure is not one of the network.
    pub async fn hand(&self) -> Result<Rc<D::Hand>, SshError> {
        let mut slot = self.hand.lock().await;
        if let Some(hand) = &*slot {
            return Ok(Rc::clone(hand));
        }
        let give_up = Instant::now() + PATIENCE;
        let mut pause = PAUSES.0;
        loop {
            let error = match self.open_and_hold().await {
                Ok(hand) => {
                    if self.openings.replace(self.openings() + 1) > 0 {
                        self.observer.news(&News::Back { node: self.node().to_owned() });
                    }
                    let hand = Rc::new(hand);
                    *slot = Some(Rc::clone(&hand));
                    return Ok(hand);
                }
                Err(error) => error,
            };
            let passes = error.is_link() || self.is_held_by_ourselves(&error);
            let again = passes && self.openings() > 0;
            if !again || Instant::now() + pause > give_up {
                return Err(error);
            }
            self.tell_lost(&error, pause);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn open_and_hold(&self) -> Result<D::Hand, SshError> {
        let hand = self.door.open().await?;
        let hold = self.hold.borrow().clone();
        if let Some(hold) = hold {
            hand.request(hold, &mut |_| {}).await?;
        }
        Ok(hand)
    }

    /// The node has not noticed yet that our last connection is gone, and guards the hold for it.
    fn is_held_by_ourselves(&self, error: &SshError) -> bool {
        let hold = self.hold.borrow();
        let (SshError::Agent { failure, .. }, Some(RequestBody::Hold { holder, .. })) =
            (error, &*hold)
        else {
            return false;
        };
        // To its end: `pid 47` is not `pid 4711`.
        failure.message.ends_with(&format!("held by {holder}"))
    }

    fn tell_lost(&self, error: &SshError, pause: Duration) {
        self.observer.news(&News::Lost {
            node: self.node().to_owned(),
            cause: error.to_string(),
            retry_in_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// Forget a hand that broke, unless another user of the link did so already.
    pub async fn drop_hand(&self, broken: &Rc<D::Hand>, error: &SshError) {
        let mut slot = self.hand.lock().await;
        if slot.as_ref().is_some_and(|hand| Rc::ptr_eq(hand, broken)) {
            *slot = None;
            self.tell_lost(error, Duration::ZERO);
        }
    }

    /// Ask, opening again and asking again when the network cuts in: every request can be repeated. One that ends every
    /// session as soon as it is asked is given up after [`LOSSES`] of them.
    ///
    /// # Errors
    /// The agent's own failure, the node stayed away for longer than [`PATIENCE`], or no session outlives the request.
    pub async fn ask(&self, body: RequestBody) -> Result<Reply, SshError> {
        let (mut losses, mut pause) = (0, PAUSES.0);
        loop {
            let hand = self.hand().await?;
            let asked = Instant::now();
            let error = match hand.request(body.clone(), &mut |_| {}).await {
                Err(error) if error.is_link() => error,
                answer => return answer,
            };
            self.drop_hand(&hand, &error).await;
            if asked.elapsed() > LASTED {
                (losses, pause) = (0, PAUSES.0);
            }
            losses += 1;
            if losses == LOSSES {
                return Err(error);
            }
            if losses > 1 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }

    /// As [`Link::ask`], where the only good answer is `Done`.
    ///
    /// # Errors
    /// As [`Link::ask`], or another answer.
    pub async fn tell(&self, body: RequestBody, name: &str) -> Result<(), SshError> {
        match self.ask(body).await? {
            Reply::Done => Ok(()),
            _ => Err(wrong_answer(self.node(), name)),
        }
    }

    /// Take the hold, and take it again whenever the session has to be opened again.
    ///
    /// # Errors
    /// Another installer has it: the agent says who.
    pub async fn take_hold(&self, holder: &str, cluster: &str) -> Result<(), SshError> {
        self.stage(Stage::Holding);
        let hold = RequestBody::Hold { holder: holder.to_owned(), cluster: cluster.to_owned() };
        self.tell(hold.clone(), "hold").await?;
        *self.hold.borrow_mut() = Some(hold);
        Ok(())
    }

    /// End the session, if there is one and nobody else uses it.
    pub async fn close(&self) {
        let hand = self.hand.lock().await.take();
        if let Some(hand) = hand.and_then(Rc::into_inner) {
            hand.close().await;
        }
    }
}
