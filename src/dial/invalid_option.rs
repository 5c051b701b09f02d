//! The error for an option that is out of its range. A plain value.

use std::{error::Error, fmt, io};

/// The error for an option whose value is out of its range.
///
/// Setters take any value. The constructor that takes the complete options checks them. These
/// constructors are [`SockMan::new`](crate::SockMan::new) and
/// [`SendQueueLimits::new`](crate::helpers::SendQueueLimits::new).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidOption {
    option: &'static str,
    requirement: &'static str,
}

impl InvalidOption {
    pub(crate) const fn new(option: &'static str, requirement: &'static str) -> InvalidOption {
        InvalidOption { option, requirement }
    }

    /// Returns the name of the option, such as `Options::sweep`.
    #[must_use]
    pub fn option(&self) -> &'static str {
        self.option
    }
}

impl fmt::Display for InvalidOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.option, self.requirement)
    }
}

impl Error for InvalidOption {}

impl From<InvalidOption> for io::Error {
    fn from(error: InvalidOption) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}
