//! Log lines as JSON objects, one a line, with the fields of all spans around them at the top: a collector finds `study`,
//! `trial`, `attempt` and `rank` under these names in the lines of every program.

use std::fmt;
use std::sync::{OnceLock, PoisonError, RwLock};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// What every line of this process is about.
fn identity() -> &'static RwLock<Map<String, Value>> {
    static IDENTITY: OnceLock<RwLock<Map<String, Value>>> = OnceLock::new();
    IDENTITY.get_or_init(RwLock::default)
}

/// Puts a field into every further JSON line of this process: a trainer is one rank of one attempt for all its life, in
/// whatever thread it speaks.
pub fn identify(name: &str, value: impl Into<Value>) {
    identity().write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), value.into());
}

/// The format; spans' fields must be formatted as JSON.
#[derive(Debug)]
pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = identity().read().unwrap_or_else(PoisonError::into_inner).clone();
        for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>().map(|fields| fields.fields.as_str());
            if let Some(Ok(Value::Object(fields))) = fields.map(serde_json::from_str) {
                line.extend(fields);
            }
        }
        event.record(&mut Fields(&mut line));
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        for (name, value) in [
            ("timestamp", time.as_str()),
            ("level", metadata.level().as_str()),
            ("target", metadata.target()),
        ] {
            line.insert(name.to_owned(), value.into());
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Takes an event's own fields in.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::format::JsonFields;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_the_fields_of_its_spans_and_its_own() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let outer = tracing::info_span!("attempt", study = 3, trial = %"mti-net/0/0");
            let _outer = outer.enter();
            let _inner = tracing::info_span!("rank", attempt = 2, rank = 1).entered();
            tracing::warn!(step = 7, share = 0.5, error = %"no\nroom", "it \"fails\"");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let has = |name: &str, value: Value| assert_eq!(line.get(name), Some(&value), "{name} in {text}");
        has("study", 3.into());
        has("trial", "mti-net/0/0".into());
        has("attempt", 2.into());
        has("rank", 1.into());
        has("step", 7.into());
        has("share", 0.5.into());
        has("error", "no\nroom".into());
        has("message", "it \"fails\"".into());
        has("level", "WARN".into());
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z') && line.contains_key("target"));
    }
}
