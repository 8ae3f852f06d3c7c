//! `strftime_now(format)`, which some templates use to tell the model today's date.
use minijinja::{Error, ErrorKind};

/// The local time in `format` (C's strftime, as Python's).
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}
