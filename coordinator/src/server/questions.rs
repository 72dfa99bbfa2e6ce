//! Questions that every connected worker is asked, and their answers as they come in.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mtinet_domain::WorkerId;
use mtinet_domain::trial::DatasetRef;
use mtinet_proto::v1::{CoordinatorMessage, LookForDataset, coordinator_message};
use mtinet_runtime::convert::ToProto as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::driver::Handle;

/// How long workers may take to look: their data root may be on a slow file system.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the answers to one question go: who says it, and whether the data set is there.
type Answers = mpsc::UnboundedSender<(WorkerId, bool)>;

/// The questions that are open. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    next: Arc<AtomicU64>,
    open: Arc<Mutex<HashMap<u64, Answers>>>,
}

/// Names of workers, by whether they have a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// It is on their machine.
    pub having: Vec<String>,
    /// It is not.
    pub lacking: Vec<String>,
    /// They did not say.
    pub silent: Vec<String>,
}

impl Questions {
    /// Asks all connected workers whether a data set is on their machine.
    ///
    /// # Errors
    /// A coordinator that ends.
    pub async fn find(&self, driver: &Handle, dataset: &DatasetRef) -> Result<Whereabouts, Status> {
        let question = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut answers) = mpsc::unbounded_channel();
        self.open().insert(question, sender);
        let _closed = Closing { questions: self, question };
        let look = LookForDataset { question, dataset: Some(dataset.to_proto()) };
        let message = CoordinatorMessage { message: Some(coordinator_message::Message::Look(look)) };
        let mut asked: BTreeMap<WorkerId, String> = driver.tell_all(message).await?.into_iter().collect();
        let mut found = Whereabouts::default();
        let all = async {
            while !asked.is_empty() {
                let Some((worker, here)) = answers.recv().await else { return };
                // Each answers once; who was not asked has nothing to say.
                if let Some(name) = asked.remove(&worker) {
                    let list = if here { &mut found.having } else { &mut found.lacking };
                    list.push(name);
                }
            }
        };
        // What is not known by then is silence.
        let _ = tokio::time::timeout(PATIENCE, all).await;
        found.silent = asked.into_values().collect();
        Ok(found)
    }

    /// A worker's answer. Nobody may wait for it any more.
    pub fn answer(&self, question: u64, worker: WorkerId, here: bool) {
        if let Some(answers) = self.open().get(&question) {
            let _ = answers.send((worker, here));
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Answers>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever asked may be gone before the answers.
struct Closing<'a> {
    questions: &'a Questions,
    question: u64,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.questions.open().remove(&self.question);
    }
}
