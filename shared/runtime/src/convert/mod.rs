//! Between the wire's messages and the domain's types: to the wire always, from the wire only what makes sense.
//!
//! Messages stop here; nothing behind this door sees one.

mod ids;
mod report;
mod trial;
mod usage;

#[cfg(test)]
mod tests;

pub use report::RankExit;
pub use trial::start_rank;

/// A message that makes no sense; `field` is the path within the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message field `{field}`: {problem}")]
pub struct ConvertError {
    /// Path of the field, e.g. `attempt.trial.key`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl ConvertError {
    /// An error at `field`.
    pub fn new(field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// The same error seen from the message that holds this one as `outer`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = if self.field.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.field) };
        self
    }
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// A domain type that can be said on the wire.
pub trait ToProto {
    /// Its message.
    type Proto;

    /// The message.
    fn to_proto(&self) -> Self::Proto;
}

/// A domain type that can be read from the wire.
pub trait FromProto: Sized {
    /// Its message.
    type Proto;

    /// Reads the message.
    ///
    /// # Errors
    /// The first field that makes no sense.
    fn from_proto(proto: Self::Proto) -> Result<Self, ConvertError>;
}

/// Reads a message field that must be there.
///
/// # Errors
/// Where it is absent or makes no sense; `field` is named.
pub fn required<T: FromProto>(field: &str, proto: Option<T::Proto>) -> Result<T, ConvertError> {
    let proto = proto.ok_or_else(|| ConvertError::new(field, "is missing"))?;
    T::from_proto(proto).map_err(|error| error.within(field))
}

/// Reads a message field that may be absent.
///
/// # Errors
/// Where it is there and makes no sense; `field` is named.
pub fn optional<T: FromProto>(field: &str, proto: Option<T::Proto>) -> Result<Option<T>, ConvertError> {
    proto.map(T::from_proto).transpose().map_err(|error| error.within(field))
}
