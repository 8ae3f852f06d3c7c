//! `GET /version`

use crate::body::Body;
use hyper::Response;

pub(crate) fn get() -> Response<Body> {
    super::json(serde_json::json!({"version": env!("CARGO_PKG_VERSION")}).to_string().into_bytes())
}
