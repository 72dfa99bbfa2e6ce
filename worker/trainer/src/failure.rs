//! The trainer's errors and their exit codes.

use std::fmt;
use std::process::ExitCode;

/// An error with the exit code that users and agents know it by.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Training failed.
    Training(anyhow::Error),
    /// What was asked for cannot be.
    Usage(anyhow::Error),
    /// A file is not what it should be.
    Input(anyhow::Error),
    /// The agent is gone.
    Agent(anyhow::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Training(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
            Self::Agent(_) => ExitCode::from(3),
            Self::Input(_) => ExitCode::from(4),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Training(error) | Self::Usage(error) | Self::Input(error) | Self::Agent(error)) = self;
        write!(f, "{error:#}")
    }
}
