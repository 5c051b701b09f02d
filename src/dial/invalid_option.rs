//! The error for an option that is out of its range. The error is a plain value, usable on any
//! thread, without a lock.

use std::{error::Error, fmt, io};

/// The error for an option whose value is out of its range. The message names the option and its
/// range.
///
/// Setters take any value. [`SockMan::new`](crate::SockMan::new) and
/// [`SendQueueLimits::new`](crate::helpers::SendQueueLimits::new) check the values.
///
/// # Examples
///
/// ```
/// use sockman::helpers::SendQueueLimits;
///
/// let error = SendQueueLimits::new(2, 1, 3).unwrap_err();
/// assert_eq!(error.option(), "SendQueueLimits::new");
/// assert_eq!(error.to_string(), "SendQueueLimits::new requires low_mark < high_mark <= limit");
/// ```
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
