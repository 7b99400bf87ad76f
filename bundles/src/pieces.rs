//! Hashing on every core: one thread reads, the others prove, and memory stays that of a few buffers.

use std::{
    cell::RefCell,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError, mpsc},
};

use crate::index::Digest;

/// More workers than this gain nothing: reading is the limit by then.
const MAX_WORKERS: usize = 8;

/// Buffers that may be on their way per worker, the one it hashes included.
const BUFFERS_PER_WORKER: usize = 2;

/// Bytes on their way to a worker.
struct Job<T> {
    tag: T,
    expected: Digest,
    bytes: Vec<u8>,
}

/// The reader's end.
pub(crate) struct Feed<T> {
    send: mpsc::Sender<Job<T>>,
    free: mpsc::Receiver<Vec<u8>>,
    /// Buffers that came back without having been sent.
    spare: RefCell<Vec<Vec<u8>>>,
}

impl<T> Feed<T> {
    /// A buffer whose content is left over from before; waits until a worker gives one back.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| {
            self.free.recv().expect("a worker gives buffers back until the reader has ended")
        })
    }

    /// Returns a buffer that was not needed.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        self.spare.borrow_mut().push(buffer);
    }

    /// Has `bytes` hashed.
    pub(crate) fn prove(&self, tag: T, expected: Digest, bytes: Vec<u8>) {
        let job = Job { tag, expected, bytes };
        self.send.send(job).expect("the receiving end outlives the reader");
    }
}

/// Runs `read` on this thread and the hashing of what it feeds on others. `bad` is told, on a
/// worker, the tag and the found digest of whatever is not as expected.
pub(crate) fn prove_all<T: Send, R>(
    bad: &(dyn Fn(T, Digest, Digest) + Sync),
    read: impl FnOnce(&Feed<T>) -> R,
) -> R {
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = workers.min(MAX_WORKERS);
    let (send, receive) = mpsc::channel();
    let receive = Mutex::new(receive);
    let (give_back, free) = mpsc::channel();
    for _ in 0..workers * BUFFERS_PER_WORKER {
        // The receiver is alive: it is a local of this function.
        let _ = give_back.send(Vec::new());
    }
    std::thread::scope(|scope| {
        let start = |_| {
            let (give_back, receive) = (give_back.clone(), &receive);
            scope.spawn(move || work(receive, &give_back, bad))
        };
        let threads: Vec<_> = (0..workers).map(start).collect();
        // Without this only the workers hold senders, and `free` closes should they all be gone.
        drop(give_back);
        let feed = Feed { send, free, spare: RefCell::default() };
        let done = read(&feed);
        // The workers end when the feed is gone. The scope's end waits for what they do, but not until the
        // threads are gone: fuzzing took what a dying one still held for a leak.
        drop(feed);
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        done
    })
}

fn work<T>(
    receive: &Mutex<mpsc::Receiver<Job<T>>>,
    give_back: &mpsc::Sender<Vec<u8>>,
    bad: &(dyn Fn(T, Digest, Digest) + Sync),
) {
    loop {
        let next = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { tag, expected, bytes }) = next else { return };
        let found = Digest::of(&bytes);
        if expected != found {
            bad(tag, expected, found);
        }
        // The reader may have ended with an error; then nobody needs the buffer.
        let _ = give_back.send(bytes);
    }
}
