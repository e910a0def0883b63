//! Why a call failed, one variant for each thing a caller does differently about it.

use std::fmt;

use tonic::{Code, Status};

/// Why a call failed. `Display` is one sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// The options make no sense.
    Options(String),
    /// No node could be reached, or none answered in time.
    Unreachable(String),
    /// The call was sent and no answer came back; nobody knows whether it was carried out.
    Unknown(String),
    /// Wrong user or password, or too many wrong ones before.
    NotAuthenticated(String),
    /// The user may not do this.
    NotPermitted(String),
    /// There is no such user or node.
    NotFound(String),
    /// The request makes no sense to the cluster.
    Invalid(String),
    /// It makes sense, but not now.
    Refused(String),
    /// The history no longer reaches back that far.
    HistoryGone(String),
}

impl ClientError {
    pub(crate) fn from_status(status: &Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated => Self::NotAuthenticated(text),
            Code::PermissionDenied => Self::NotPermitted(text),
            Code::NotFound => Self::NotFound(text),
            Code::InvalidArgument | Code::Unimplemented => Self::Invalid(text),
            Code::OutOfRange => Self::HistoryGone(text),
            Code::FailedPrecondition | Code::ResourceExhausted | Code::AlreadyExists => Self::Refused(text),
            Code::Unavailable => Self::Unreachable(text),
            _ => Self::Unknown(text),
        }
    }

    /// The error in words.
    pub fn text(&self) -> &str {
        match self {
            Self::Options(text)
            | Self::Unreachable(text)
            | Self::Unknown(text)
            | Self::NotAuthenticated(text)
            | Self::NotPermitted(text)
            | Self::NotFound(text)
            | Self::Invalid(text)
            | Self::Refused(text)
            | Self::HistoryGone(text) => text,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(text) => {
                write!(f, "the answer was lost, the request may have been carried out: {text}")
            }
            other => f.write_str(other.text()),
        }
    }
}

impl std::error::Error for ClientError {}
