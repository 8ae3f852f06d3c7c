//! What a C function reports: a code and a message.

use std::any::Any;

use tokenmill_backend_abi as abi;
use tokenmill_backend_model::error::Error;

/// A code other than OK, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: abi::Code,
    pub(crate) text: String,
}

impl Fault {
    pub(crate) fn new(code: abi::Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(abi::INVALID, text)
    }

    pub(crate) fn lost(why: &str) -> Self {
        Self::new(abi::LOST, format!("the device is lost: {why}"))
    }

    /// What a caught panic said.
    pub(crate) fn panic(payload: &(dyn Any + Send)) -> Self {
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::new(abi::INTERNAL, format!("panic: {}", said.unwrap_or("no message")))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Invalid(_) => abi::INVALID,
            Error::Unsupported(_) => abi::UNSUPPORTED,
            Error::NoMemory(_) => abi::NO_MEMORY,
            Error::Lost(_) => abi::LOST,
        };
        Self { code, text: error.to_string() }
    }
}
