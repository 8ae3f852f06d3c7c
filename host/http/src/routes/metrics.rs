//! `GET /metrics`

use crate::app::Server;
use crate::body::Body;
use crate::metrics;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};

pub(crate) fn get(server: &Server) -> Response<Body> {
    let mut response = Response::new(Body::full(metrics::page(server)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
