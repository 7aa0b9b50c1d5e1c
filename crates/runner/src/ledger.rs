//! The store, on a thread of its own.
//!
//! A commit syncs the disk and may wait for other processes for hundreds of milliseconds; an event loop
//! must not stand still for that. Calls are carried out in order, one at a time.

use outlast_store::Store;
use std::path::PathBuf;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

type Call = Box<dyn FnOnce(&mut Store) + Send>;

/// Calls that may wait for the thread; the runner makes them one after another.
const QUEUE: usize = 8;

/// The thread is gone: it panicked, or the store could not be opened.
#[derive(Debug, Error)]
pub(crate) enum LedgerError {
    /// The thread could not be started.
    #[error("cannot start the store's thread")]
    Thread(#[source] std::io::Error),
    /// The database could not be opened.
    #[error("cannot open the store")]
    Open(#[source] outlast_store::StoreError),
    /// The thread ended.
    #[error("the store's thread has ended")]
    Gone,
}

/// The door to the store.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    calls: mpsc::Sender<Call>,
}

impl Ledger {
    /// Opens the store on a thread of its own.
    pub(crate) async fn open(database: PathBuf) -> Result<Self, LedgerError> {
        let (calls, mut queue) = mpsc::channel::<Call>(QUEUE);
        let (opened, opening) = oneshot::channel();
        let serve = move || match Store::open(&database) {
            Ok(mut store) => {
                let _ = opened.send(Ok(()));
                while let Some(call) = queue.blocking_recv() {
                    call(&mut store);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).stack_size(512 * 1024).spawn(serve);
        thread.map_err(LedgerError::Thread)?;
        opening.await.map_err(|_| LedgerError::Gone)?.map_err(LedgerError::Open)?;
        Ok(Self { calls })
    }

    /// Carries out one call. Cancelling the wait does not cancel the call.
    pub(crate) async fn call<T, F>(&self, call: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Store) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |store| drop(answer.send(call(store))));
        self.calls.send(call).await.map_err(|_| LedgerError::Gone)?;
        answered.await.map_err(|_| LedgerError::Gone)
    }
}
