//! The trainer's side of the socket to its agent.
//!
//! A thread of its own reads, because the trainer must notice at any moment, also inside a collective, that it is to
//! stop or that its agent is gone.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use mtinet_proto::v1::{FromTrainer, RendezvousReady, ToTrainer, TrainerStart, from_trainer, to_trainer};
use prost::Message;

/// A trainer whose agent is gone must not go on: nobody would ever collect its results or end it.
const EXIT_AGENT_GONE: i32 = 3;

/// Messages to and from the agent.
pub(crate) struct Connection {
    writer: Writer,
    start: Receiver<TrainerStart>,
    rendezvous: Receiver<RendezvousReady>,
    stop: Arc<AtomicBool>,
}

/// The sending half. Whole messages go out, whichever thread they come from.
#[derive(Clone)]
pub(crate) struct Writer(Arc<Mutex<UnixStream>>);

impl Writer {
    pub(crate) fn send(&self, message: from_trainer::Message) -> std::io::Result<()> {
        let bytes = FromTrainer { message: Some(message) }.encode_length_delimited_to_vec();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&bytes)
    }
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> anyhow::Result<Self> {
        let writer = UnixStream::connect(socket)
            .with_context(|| format!("failed to connect to the agent at {}", socket.display()))?;
        let reader = BufReader::new(writer.try_clone().context("failed to duplicate the agent's socket")?);
        let (send_start, start) = channel();
        let (send_rendezvous, rendezvous) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stop_flag = stop.clone();
        std::thread::spawn(move || {
            let end = listen(reader, |message| match message {
                // A receiver that is gone wanted only the first message of its kind.
                to_trainer::Message::Start(start) => drop(send_start.send(start)),
                to_trainer::Message::Rendezvous(ready) => drop(send_rendezvous.send(ready)),
                to_trainer::Message::Stop(_) => stop_flag.store(true, Ordering::Relaxed),
            });
            tracing::warn!("the agent is gone ({end:#}); ending");
            mtinet_torch_ext::exit_now(EXIT_AGENT_GONE);
        });
        Ok(Self { writer: Writer(Arc::new(Mutex::new(writer))), start, rendezvous, stop })
    }

    pub(crate) fn send(&self, message: from_trainer::Message) -> std::io::Result<()> {
        self.writer.send(message)
    }

    /// For another thread.
    pub(crate) fn writer(&self) -> Writer {
        self.writer.clone()
    }

    pub(crate) fn wait_for_start(&self, timeout: Duration) -> anyhow::Result<TrainerStart> {
        receive(&self.start, timeout, "the agent sent no assignment")
    }

    pub(crate) fn wait_for_rendezvous(&self, timeout: Duration) -> anyhow::Result<RendezvousReady> {
        receive(&self.rendezvous, timeout, "rank 0 did not announce its store")
    }

    pub(crate) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn receive<T>(receiver: &Receiver<T>, timeout: Duration, what: &str) -> anyhow::Result<T> {
    receiver.recv_timeout(timeout).map_err(|error| match error {
        RecvTimeoutError::Timeout => anyhow!("{what} within {} s", timeout.as_secs()),
        RecvTimeoutError::Disconnected => anyhow!("{what}: the connection is closed"),
    })
}

/// Hands every message on until the connection ends; tells how it ended.
fn listen(mut reader: impl Read, mut handle: impl FnMut(to_trainer::Message)) -> anyhow::Error {
    loop {
        match read_frame(&mut reader) {
            Ok(ToTrainer { message: Some(message) }) => handle(message),
            Ok(ToTrainer { message: None }) => {}
            Err(error) => return error,
        }
    }
}

fn read_frame(reader: &mut impl Read) -> anyhow::Result<ToTrainer> {
    let length = read_length(reader)?;
    if length > mtinet_proto::MAX_MESSAGE_BYTES {
        bail!("a message of {length} bytes is too long");
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(ToTrainer::decode(bytes.as_slice())?)
}

/// The varint before a length-delimited message; prost decodes it only from a buffer that is already complete.
fn read_length(reader: &mut impl Read) -> anyhow::Result<usize> {
    let mut bytes = Vec::with_capacity(5);
    loop {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        bytes.push(byte[0]);
        if byte[0] & 0x80 == 0 {
            return Ok(prost::decode_length_delimiter(bytes.as_slice())?);
        }
        if bytes.len() == 10 {
            bail!("a message's length is malformed");
        }
    }
}

#[cfg(test)]
mod tests {
    use mtinet_proto::v1::TrainerStop;

    use super::*;

    #[test]
    fn frames_are_read_one_by_one_until_the_end() {
        let start = TrainerStart { work_dir: "w".repeat(300), ..TrainerStart::default() };
        let mut bytes = Vec::new();
        for message in [to_trainer::Message::Start(start), to_trainer::Message::Stop(TrainerStop {})] {
            bytes.extend(ToTrainer { message: Some(message) }.encode_length_delimited_to_vec());
        }
        let mut seen = Vec::new();
        listen(bytes.as_slice(), |message| seen.push(message));
        assert!(
            matches!(&seen[..], [to_trainer::Message::Start(s), to_trainer::Message::Stop(_)] if s.work_dir.len() == 300)
        );
    }

    #[test]
    fn a_malformed_or_huge_length_ends_the_connection() {
        for bytes in [vec![0xff; 12], vec![0xff, 0xff, 0xff, 0xff, 0x7f]] {
            let mut seen = 0;
            let end = listen(bytes.as_slice(), |_| seen += 1);
            assert_eq!(seen, 0);
            assert!(end.to_string().contains("message"), "{end}");
        }
    }
}
