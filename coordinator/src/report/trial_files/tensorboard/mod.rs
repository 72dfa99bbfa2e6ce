//! A trial's measurements as TensorBoard reads them: scalars by step, and images of segmentations.
//!
//! Ours, because no well-kept crate writes these files: framing and seven messages are all there is to it. Steps that were
//! taken again after a resume are void in a reader from the [`SessionLog::START`] on that stands before them.

mod messages;
mod records;

use mtinet_domain::event::{MetricRecord, MetricScope};
use prost::Message as _;

use self::messages::{Content, Event, Image, SessionLog, Summary, Value, What};

/// What a file's first event must say.
const VERSION: &str = "brain.Event:2";

/// Name of a trial's file: TensorBoard takes a file for one of its own by the part in the middle.
pub fn file_name(started_ms: u64) -> String {
    format!("events.out.tfevents.{}.mtinet", started_ms / 1000)
}

/// Turns what is measured into the bytes of an event file, in order. It holds no bytes itself.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// Place of the last measurement of each kind that tells time: step and seconds of training.
    last_step: Option<(u64, f64)>,
    last_epoch: Option<(u32, f64)>,
}

impl Events {
    /// The beginning of a file.
    pub fn begin(time_ms: u64) -> Vec<u8> {
        encode(time_ms, 0, What::FileVersion(VERSION.to_owned()))
    }

    /// Training begins, or goes on after this many steps.
    pub fn resume(&mut self, time_ms: u64, after: u64) -> Vec<u8> {
        (self.last_step, self.last_epoch) = (None, None);
        encode(time_ms, after + 1, What::SessionLog(SessionLog { status: SessionLog::START }))
    }

    /// A measurement. Values that are not finite are kept: TensorBoard marks them.
    pub fn measure(&mut self, time_ms: u64, record: &MetricRecord) -> Vec<u8> {
        let group = match record.scope {
            MetricScope::Step => "step",
            MetricScope::Epoch => "epoch",
            MetricScope::HeldOut => "held_out",
        };
        let mut value: Vec<Value> =
            record.values.iter().map(|(name, value)| scalar(format!("{group}/{name}"), *value)).collect();
        value.extend(self.seconds(record).map(|(name, seconds)| scalar(name.to_owned(), seconds)));
        encode(time_ms, record.step, What::Summary(Summary { value }))
    }

    /// How long a step or an epoch took, where the one before is known.
    fn seconds(&mut self, record: &MetricRecord) -> Option<(&'static str, f64)> {
        let per =
            |now: f64, before: f64, count: u64| (count > 0).then(|| (now - before).max(0.0) / count as f64);
        match record.scope {
            MetricScope::Step => {
                let (step, seconds) = self.last_step.replace((record.step, record.train_seconds))?;
                per(record.train_seconds, seconds, record.step.saturating_sub(step))
                    .map(|s| ("time/step_seconds", s))
            }
            MetricScope::Epoch => {
                let (epoch, seconds) = self.last_epoch.replace((record.epoch, record.train_seconds))?;
                let epochs = u64::from(record.epoch.saturating_sub(epoch));
                per(record.train_seconds, seconds, epochs).map(|s| ("time/epoch_seconds", s))
            }
            MetricScope::HeldOut => None,
        }
    }

    /// An image of red, green and blue as a PNG file.
    pub fn image(
        time_ms: u64,
        step: u64,
        tag: &str,
        (width, height): (usize, usize),
        png: Vec<u8>,
    ) -> Vec<u8> {
        let pixels = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let image =
            Image { height: pixels(height), width: pixels(width), colorspace: 3, encoded_image_string: png };
        let value = Value { tag: tag.to_owned(), content: Some(Content::Image(image)) };
        encode(time_ms, step, What::Summary(Summary { value: vec![value] }))
    }
}

fn scalar(tag: String, value: f64) -> Value {
    // TensorBoard's numbers have single precision.
    Value { tag, content: Some(Content::SimpleValue(value as f32)) }
}

fn encode(time_ms: u64, step: u64, what: What) -> Vec<u8> {
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let event = Event { wall_time: time_ms as f64 / 1000.0, step, what: Some(what) };
    records::frame(&event.encode_to_vec())
}

/// The scalars of a file as (tag, step, value), and how many steps were declared void; for tests.
#[cfg(test)]
pub fn scalars(file: &[u8]) -> (Vec<(String, i64, f32)>, usize) {
    let (mut scalars, mut starts) = (Vec::new(), 0);
    for record in records::read(file) {
        let event = Event::decode(record.as_slice()).unwrap();
        match event.what.unwrap() {
            What::FileVersion(version) => assert_eq!(version, VERSION),
            What::SessionLog(log) => {
                assert_eq!(log.status, SessionLog::START);
                starts += 1;
            }
            What::Summary(summary) => {
                scalars.extend(summary.value.into_iter().filter_map(|value| match value.content? {
                    Content::SimpleValue(number) => Some((value.tag, event.step, number)),
                    Content::Image(_) => None,
                }));
            }
        }
    }
    (scalars, starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(scope: MetricScope, step: u64, epoch: u32, train_seconds: f64) -> MetricRecord {
        MetricRecord { scope, step, epoch, train_seconds, values: [("loss".to_owned(), 0.5)].into() }
    }

    #[test]
    fn measurements_are_scalars_by_scope_with_the_time_that_they_took() {
        let mut events = Events::default();
        let mut file = Events::begin(1_700_000_000_500);
        file.extend(events.resume(1_700_000_000_500, 0));
        file.extend(events.measure(1, &record(MetricScope::Step, 1, 1, 2.0)));
        file.extend(events.measure(2, &record(MetricScope::Step, 3, 1, 6.0)));
        file.extend(events.measure(2, &record(MetricScope::Epoch, 3, 1, 6.0)));
        file.extend(events.measure(3, &record(MetricScope::Epoch, 6, 2, 16.0)));
        file.extend(events.measure(3, &record(MetricScope::HeldOut, 6, 2, 0.0)));
        // After a resume the time since the last step of the former attempt says nothing.
        file.extend(events.resume(9, 3));
        file.extend(events.measure(10, &record(MetricScope::Step, 4, 2, 8.0)));
        let (scalars, starts) = scalars(&file);
        assert_eq!(starts, 2);
        let of = |tag: &str| -> Vec<(i64, f32)> {
            scalars.iter().filter(|(name, ..)| name == tag).map(|(_, step, value)| (*step, *value)).collect()
        };
        assert_eq!(of("step/loss"), [(1, 0.5), (3, 0.5), (4, 0.5)]);
        assert_eq!(of("time/step_seconds"), [(3, 2.0)]);
        assert_eq!(of("time/epoch_seconds"), [(6, 10.0)]);
        assert_eq!((of("epoch/loss").len(), of("held_out/loss")), (2, vec![(6, 0.5)]));
        assert_eq!(file_name(1_700_000_000_500), "events.out.tfevents.1700000000.mtinet");
    }
}
