//! `GET /health` (may requests be sent here?) and `GET /livez` (does the process answer?)

use crate::app::Server;
use crate::body::Body;
use crate::error::ApiError;
use hyper::Response;

/// 200, or 503 while draining, while the device hangs, and once it is lost.
pub(crate) fn ready(server: &Server) -> Result<Response<Body>, ApiError> {
    if server.draining() {
        return Err(ApiError::draining());
    }
    if server.app.engine.stats().lost {
        return Err(ApiError::from(tokenmill_engine::Refused::Stopped));
    }
    if server.hung() {
        return Err(ApiError::hung());
    }
    Ok(live())
}

pub(crate) fn live() -> Response<Body> {
    Response::new(Body::full(""))
}
