//! What a command ends with, and the exit code that goes with it.

use std::error::Error;
use std::process::ExitCode;

use mtinet_data::DataError;
use mtinet_runtime::artifacts::ArtifactError;
use mtinet_runtime::config::ConfigError;
use mtinet_runtime::net::NetError;
use mtinet_runtime::shutdown::INTERRUPTED;
use mtinet_runtime::telemetry::TelemetryError;
use mtinet_runtime::tls::{AccessError, TlsError, TokenError};

use crate::report::{ResultsError, WriteError};
use crate::server::ServerError;

/// Why a command does not end with 0. The text is complete: it names the thing and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The thing asked about is not so: a check failed, a study is not complete. Exit code 1.
    #[error("{0}")]
    NotSo(String),
    /// Wrong usage or configuration, the study file included. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The coordinator could not be reached or refused. Exit code 3.
    #[error("{0}")]
    Coordinator(String),
    /// Bad input data. Exit code 4.
    #[error("{0}")]
    BadData(String),
    /// A person ended the command. Exit code 130.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// This machine refused something: a full disk, a missing program. Exit code 1.
    pub fn failed(what: impl std::fmt::Display, error: &dyn Error) -> Self {
        Self::NotSo(format!("{what}: {}", chain(error)))
    }

    /// The exit code (DESIGN.md 4.2).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotSo(_) => 1,
            Self::Usage(_) => 2,
            Self::Coordinator(_) => 3,
            Self::BadData(_) => 4,
            Self::Interrupted => INTERRUPTED,
        }
    }

    /// Tells a person, and gives the process's exit code.
    pub fn report(&self) -> ExitCode {
        if !matches!(self, Self::Interrupted) {
            super::output::say(format_args!("error: {self}"));
        }
        ExitCode::from(self.exit_code())
    }
}

/// An error and all its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Libraries differ in whether an error's text holds that of its cause.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl From<DataError> for CliError {
    fn from(error: DataError) -> Self {
        let text = chain(&error);
        if error.exit_code() == 2 { Self::Usage(text) } else { Self::BadData(text) }
    }
}

impl From<NetError> for CliError {
    fn from(error: NetError) -> Self {
        let text = chain(&error);
        match error {
            NetError::Connect { .. } | NetError::NoIdentity { .. } | NetError::Handshake { .. } => {
                Self::Coordinator(text)
            }
            NetError::Bind { .. } | NetError::Url { .. } | NetError::Tls(_) => Self::Usage(text),
        }
    }
}

impl From<ServerError> for CliError {
    fn from(error: ServerError) -> Self {
        let text = format!("the coordinator ended: {}", chain(&error));
        match error {
            ServerError::DataDir { .. }
            | ServerError::InUse { .. }
            | ServerError::NetworkFileSystem { .. }
            | ServerError::PlaintextAbroad { .. }
            | ServerError::Tls(_) => Self::Usage(text),
            _ => Self::NotSo(text),
        }
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        match status.code() {
            tonic::Code::NotFound => Self::NotSo(status.message().to_owned()),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => {
                Self::Coordinator(format!("the coordinator does not answer: {}", status.message()))
            }
            _ => Self::Coordinator(format!("the coordinator refused: {}", status.message())),
        }
    }
}

impl From<AccessError> for CliError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Net(error) => error.into(),
            AccessError::Tls(error) => Self::failed("no identity", &error),
            AccessError::Away(_) => Self::Coordinator(chain(&error)),
            AccessError::Refused(words) => Self::Coordinator(format!("the coordinator refused: {words}")),
        }
    }
}

impl From<TlsError> for CliError {
    fn from(error: TlsError) -> Self {
        Self::Usage(chain(&error))
    }
}

impl From<TokenError> for CliError {
    fn from(error: TokenError) -> Self {
        Self::Usage(chain(&error))
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(chain(&error))
    }
}

impl From<TelemetryError> for CliError {
    fn from(error: TelemetryError) -> Self {
        Self::Usage(chain(&error))
    }
}

impl From<ArtifactError> for CliError {
    fn from(error: ArtifactError) -> Self {
        let text = chain(&error);
        match error {
            ArtifactError::File { .. } => Self::NotSo(text),
            _ => Self::Coordinator(text),
        }
    }
}

impl From<WriteError> for CliError {
    fn from(error: WriteError) -> Self {
        Self::NotSo(chain(&error))
    }
}

impl From<ResultsError> for CliError {
    fn from(error: ResultsError) -> Self {
        Self::Coordinator(chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_each_cause_once() {
        let cause = std::io::Error::other("disk full");
        let error = WriteError::Io { path: "report/tables.md".into(), source: cause };
        let text = chain(&error);
        assert!(text.starts_with("cannot write report/tables.md") && text.ends_with(": disk full"), "{text}");
    }

    #[test]
    fn exit_codes_are_the_contracts() {
        assert_eq!(CliError::from(tonic::Status::not_found("no study 9")).exit_code(), 1);
        assert_eq!(CliError::from(tonic::Status::invalid_argument("bad")).exit_code(), 3);
        assert_eq!(CliError::from(tonic::Status::unavailable("gone")).exit_code(), 3);
        assert_eq!(CliError::from(ServerError::InUse { path: "d".into() }).exit_code(), 2);
        assert_eq!(CliError::Usage(String::new()).exit_code(), 2);
        assert_eq!(CliError::BadData(String::new()).exit_code(), 4);
        assert_eq!(CliError::Interrupted.exit_code(), 130);
    }
}
