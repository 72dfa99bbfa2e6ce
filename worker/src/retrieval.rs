//! What is fetched from the coordinator, with patience: one that is merely away is waited for, and what arrives damaged is
//! fetched again.

use std::path::Path;

use mtinet_data::portable::MOST_DOCUMENT_BYTES;
use mtinet_domain::trial::ArtifactRef;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::{GetArtifactRequest, GetDatasetRequest};
use mtinet_runtime::artifacts::{ArtifactError, fetch_to};
use mtinet_runtime::net::Channel;
use tracing::Span;

use crate::agent::Shared;
use crate::data_cache::Source;
use crate::link::{chain, delays};

/// Downloads of a file that arrive damaged before it is given up.
const DAMAGED_TRIES: usize = 3;

/// Tries until it works or trying again does not help. `hash` says what is fetched.
///
/// # Errors
/// In words.
pub async fn retrieve<T, F>(
    shared: &Shared,
    hash: &str,
    mut attempt: impl FnMut(WorkerClient<Channel>) -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<T, ArtifactError>>,
{
    let (mut damaged, mut refusals) = (0, 0);
    let mut client = shared.client.clone();
    for (delay, tries) in delays().zip(1_u32..) {
        Span::current().record("tries", tries);
        match attempt(client.clone()).await {
            Ok(fetched) => return Ok(fetched),
            Err(ArtifactError::Damaged { hash, problem }) => {
                damaged += 1;
                tracing::warn!(hash, problem, "a file arrived damaged");
                if damaged == DAMAGED_TRIES {
                    return Err(format!("artifact {hash} is damaged: {problem}"));
                }
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(error = chain(&error), hash, "fetching a file waits");
            }
            Err(error) if error.is_unauthenticated() => match shared.access.readmit(&mut refusals).await {
                Some(other) => {
                    client = other;
                    continue;
                }
                None => return Err(chain(&error)),
            },
            Err(error) => return Err(chain(&error)),
        }
        tokio::time::sleep(delay).await;
    }
    Err("gave up fetching".to_owned())
}

/// The coordinator's store, as far as data sets come from it.
pub struct Store<'a>(pub &'a Shared);

impl Source for Store<'_> {
    async fn list(&self, hash: &str) -> Result<Vec<u8>, String> {
        retrieve(self.0, hash, |mut client| async move {
            let rpc =
                |source: tonic::Status| ArtifactError::Rpc { hash: hash.to_owned(), source: source.into() };
            let request = GetDatasetRequest { hash: hash.to_owned() };
            let mut stream = match client.get_dataset(request).await {
                Ok(answer) => answer.into_inner(),
                // Its words say what to do, and are all that the rank's end is to say.
                Err(status) if status.code() == tonic::Code::NotFound => {
                    return Ok(Err(status.message().to_owned()));
                }
                Err(status) => return Err(rpc(status)),
            };
            let mut document = Vec::new();
            while let Some(chunk) = stream.message().await.map_err(rpc)? {
                document.extend_from_slice(&chunk.data);
                if document.len() > MOST_DOCUMENT_BYTES {
                    let problem = format!("more than {MOST_DOCUMENT_BYTES} bytes arrived");
                    return Err(ArtifactError::Damaged { hash: hash.to_owned(), problem });
                }
            }
            Ok(Ok(document))
        })
        .await?
    }

    async fn bring(&self, file: ArtifactRef, dest: &Path) -> Result<(), String> {
        let file = &file;
        retrieve(self.0, &file.blake3, |mut client| async move {
            let rpc = |source: tonic::Status| ArtifactError::Rpc {
                hash: file.blake3.clone(),
                source: source.into(),
            };
            let request = GetArtifactRequest { blake3: file.blake3.clone() };
            let stream = client.get_artifact(request).await.map_err(rpc)?.into_inner();
            fetch_to(stream, file, dest).await
        })
        .await
    }
}
