//! The OpenAI error body, and the one place where an internal error becomes a status code.
//!
//! What a client reads is written here; what an operator reads goes to the log with the request id.

use crate::body::Body;
use crate::json;
use crate::policies::PolicyError;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use tokenmill_engine::{Failure, Refused};

/// One refusal: `{"error": {message, type, param, code}}` under a status.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
    pub(crate) retry_after: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code, retry_after: None }
    }

    /// 400 about the field `param`.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::new(StatusCode::BAD_REQUEST, None, message) }
    }

    /// 400 for a known field whose meaning this server does not have.
    pub(crate) fn unsupported(param: &str) -> Self {
        let mut error =
            Self::invalid(param, format!("`{param}` is not supported by this server with this value"));
        error.code = Some("unsupported_parameter");
        error
    }

    /// 400 about the body as a whole.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, message)
    }

    pub(crate) fn context_length(param: &str, message: String) -> Self {
        let mut error = Self::invalid(param, message);
        error.code = Some("context_length_exceeded");
        error
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), "missing or wrong API key")
    }

    pub(crate) fn unknown_model(name: &str) -> Self {
        let shown: String = name.chars().take(128).collect();
        let mut error = Self::invalid(
            "model",
            format!("the model `{shown}` does not exist on this server; see /v1/models"),
        );
        error.status = StatusCode::NOT_FOUND;
        error.code = Some("model_not_found");
        error
    }

    pub(crate) fn unknown_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, None, "no such route")
    }

    pub(crate) fn wrong_method(allow: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, None, format!("this route answers {allow}"))
    }

    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            None,
            format!("the request body is larger than {limit} bytes"),
        )
    }

    pub(crate) fn body_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, None, "the request body did not arrive in time")
    }

    pub(crate) fn busy() -> Self {
        let message = "the server holds as many request bytes as it may; try again";
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("busy"), message) }
    }

    pub(crate) fn draining() -> Self {
        let message = "the server is shutting down";
        Self { retry_after: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("draining"), message) }
    }

    pub(crate) fn loading() -> Self {
        let message = "the model is loading";
        Self { retry_after: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("loading"), message) }
    }

    pub(crate) fn hung() -> Self {
        let message = "the device has finished no step for too long";
        Self { retry_after: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("hung"), message) }
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Some("internal_error"), "internal error")
    }

    /// OpenAI's `type`, which follows from the status.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            429 => "rate_limit_error",
            503 => "service_unavailable_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// `{"error":{…}}` without a line end.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"error\":{\"message\":");
        json::string(out, &self.message);
        out.extend_from_slice(b",\"type\":");
        json::string(out, self.kind());
        out.extend_from_slice(b",\"param\":");
        json::optional_string(out, self.param.as_deref());
        out.extend_from_slice(b",\"code\":");
        json::optional_string(out, self.code);
        out.extend_from_slice(b"}}");
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let mut out = Vec::with_capacity(256);
        self.write(&mut out);
        let mut response = Response::new(Body::full(out));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::QueueFull => Self {
                retry_after: Some(1),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, Some("queue_full"), message)
            },
            Refused::Draining => Self::draining(),
            Refused::TooLong { .. } => Self::context_length("prompt", message),
            Refused::Invalid { field, .. } => Self::invalid(field, message),
            Refused::Stopped => Self {
                retry_after: Some(5),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("engine_stopped"), message)
            },
        }
    }
}

impl From<PolicyError> for ApiError {
    fn from(error: PolicyError) -> Self {
        let message = error.to_string();
        let (status, code) = match error {
            PolicyError::Refused(_) => (StatusCode::BAD_REQUEST, "policy_refused"),
            PolicyError::Unknown(_) => (StatusCode::NOT_FOUND, "policy_not_found"),
            PolicyError::Conflict(_) => (StatusCode::CONFLICT, "policy_conflict"),
            PolicyError::Host(_) => {
                tracing::error!("{message}");
                return Self::internal();
            }
        };
        Self::new(status, Some(code), message)
    }
}

impl From<&Failure> for ApiError {
    fn from(failure: &Failure) -> Self {
        let retry = |code, message: &str| Self {
            retry_after: Some(5),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Some(code), message)
        };
        let fault = |code, message: &str| Self::new(StatusCode::INTERNAL_SERVER_ERROR, Some(code), message);
        match failure {
            Failure::Shutdown => return Self::draining(),
            Failure::Refused(why) => return Self::invalid("policy", why.as_str()),
            Failure::Rejected => {
                return Self {
                    retry_after: Some(1),
                    ..Self::new(StatusCode::TOO_MANY_REQUESTS, Some("rejected"), failure.message())
                };
            }
            _ => tracing::error!(%failure, "a request failed"),
        }
        // The texts of a device stay in the log: they may hold paths and addresses.
        match failure {
            Failure::Numerical => fault("numerical_error", &failure.message()),
            Failure::Policy { .. } => fault("plugin_failed", "the sampling policy of this request failed"),
            Failure::BackendLost(_) => retry("backend_lost", "the device was lost"),
            Failure::NoMemory(_) => retry("out_of_memory", "the device ran out of memory"),
            _ => Self::internal(),
        }
    }
}
