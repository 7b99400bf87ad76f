//! Something that is served in a thread and a runtime of its own, for as long as its handle lives.

use std::{future::Future, io, thread::JoinHandle};

use tokio::{runtime::Runtime, sync::oneshot};

/// Threads that read and prove pieces for one service.
const READERS: usize = 2;

/// A service in the background. Dropping this ends it, and waits until its thread is gone.
pub(crate) struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The runtime of a service: one thread for the network, a few for the disk.
pub(crate) fn runtime() -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(READERS).build()
}

impl Background {
    /// Starts the service that `make` makes in its thread; it ends by itself, or when this is dropped.
    pub(crate) fn start<F: Future<Output = ()>>(
        name: &str,
        runtime: Runtime,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = make() => {}
                    // That the other end was dropped means the same.
                    _ = stopped => {}
                }
            });
            // A read of the disk that nobody waits for any more must not keep the thread.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(serve)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// The thread has not died.
    pub(crate) fn stands(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It has ended by itself already where nobody hears this.
            let _heard = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a service's thread had died");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[test]
    fn it_stands_until_it_is_dropped_and_one_that_died_does_not() {
        let alive = Arc::new(AtomicBool::new(true));
        struct Tell(Arc<AtomicBool>);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        // It is told of even where the service was stopped before it did anything.
        let tell = Tell(Arc::clone(&alive));
        let endless = Background::start("endless", runtime().unwrap(), move || async move {
            let _tell = tell;
            std::future::pending().await
        });
        let endless = endless.unwrap();
        assert!(endless.stands());
        drop(endless);
        assert!(!alive.load(Ordering::SeqCst), "dropping it waits until it is gone");

        let short = Background::start("short", runtime().unwrap(), || async {}).unwrap();
        while short.stands() {
            std::thread::yield_now();
        }
    }
}
