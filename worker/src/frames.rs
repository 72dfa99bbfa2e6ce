//! Length-delimited messages on the trainer's socket: prost's own framing (a varint length before each message).

use std::io;
use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use mtinet_proto::MAX_MESSAGE_BYTES;
use prost::Message;
use tokio_util::codec::{Decoder, Encoder};

/// Longest varint of 64 bits.
const MAX_PREFIX_BYTES: usize = 10;

/// Reads `In` and writes `Out`; a frame above 16 MiB is an error, not an allocation.
#[derive(Debug)]
pub struct Frames<In, Out>(PhantomData<fn() -> (In, Out)>);

impl<In, Out> Default for Frames<In, Out> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<In: Message + Default, Out> Decoder for Frames<In, Out> {
    type Item = In;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<In>> {
        let prefix = buffer.iter().take(MAX_PREFIX_BYTES).position(|byte| byte & 0x80 == 0);
        let Some(prefix) = prefix else {
            if buffer.len() >= MAX_PREFIX_BYTES {
                return Err(invalid("a frame begins with no length"));
            }
            return Ok(None);
        };
        let length = prost::decode_length_delimiter(&buffer[..=prefix]).map_err(invalid)?;
        if length > MAX_MESSAGE_BYTES {
            return Err(invalid(format!(
                "a frame of {length} bytes is above the limit of {MAX_MESSAGE_BYTES}"
            )));
        }
        let whole = prefix + 1 + length;
        if buffer.len() < whole {
            buffer.reserve(whole - buffer.len());
            return Ok(None);
        }
        let mut frame = buffer.split_to(whole);
        frame.advance(prefix + 1);
        In::decode(frame.freeze()).map(Some).map_err(invalid)
    }
}

impl<In, Out: Message> Encoder<Out> for Frames<In, Out> {
    type Error = io::Error;

    fn encode(&mut self, message: Out, buffer: &mut BytesMut) -> io::Result<()> {
        if message.encoded_len() > MAX_MESSAGE_BYTES {
            return Err(invalid(format!("a message of {} bytes is too long", message.encoded_len())));
        }
        message.encode_length_delimited(buffer).map_err(invalid)
    }
}

fn invalid(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use mtinet_proto::v1::TrainerFailed;

    use super::*;

    type Both = Frames<TrainerFailed, TrainerFailed>;

    #[test]
    fn a_frame_arrives_whole_however_it_is_cut() {
        let sent = TrainerFailed { message: "x".repeat(300), step: Some(7), missing: vec![1] };
        let mut bytes = BytesMut::new();
        Both::default().encode(sent.clone(), &mut bytes).unwrap();
        Both::default().encode(sent.clone(), &mut bytes).unwrap();
        let mut codec = Both::default();
        let mut buffer = BytesMut::new();
        let mut received = Vec::new();
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            received.extend(codec.decode(&mut buffer).unwrap());
        }
        assert_eq!(received, [sent.clone(), sent]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_absurd_length_is_refused_at_once() {
        let mut buffer = BytesMut::new();
        prost::encode_length_delimiter(MAX_MESSAGE_BYTES + 1, &mut buffer).unwrap();
        assert!(Both::default().decode(&mut buffer).is_err());
        let mut endless = BytesMut::from(&[0xff; 12][..]);
        assert!(Both::default().decode(&mut endless).is_err());
    }
}
