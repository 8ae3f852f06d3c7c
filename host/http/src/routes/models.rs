//! `GET /v1/models` and `GET /v1/models/{id}`

use crate::app::Server;
use crate::body::Body;
use crate::error::ApiError;
use hyper::Response;
use serde_json::{Value, json};

pub(crate) fn list(server: &Server) -> Response<Body> {
    let card = &server.app.card;
    let data: Vec<Value> =
        std::iter::once(&card.name).chain(&card.aliases).map(|name| entry(server, name)).collect();
    super::json(json!({"object": "list", "data": data}).to_string().into_bytes())
}

pub(crate) fn get(server: &Server, id: &str) -> Result<Response<Body>, ApiError> {
    let name = percent_decoded(id);
    if !server.app.card.is_named(&name) {
        return Err(ApiError::unknown_model(&name));
    }
    Ok(super::json(entry(server, &name).to_string().into_bytes()))
}

fn entry(server: &Server, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": server.started,
        "owned_by": "tokenmill",
        "root": server.app.card.name,
        "parent": null,
        "max_model_len": server.app.engine.limits().max_model_len,
    })
}

/// `%2F` and the like (RFC 3986 section 2.1); what is not an escape stays.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn escapes_are_decoded_and_the_rest_stays() {
        let cases =
            [("a%2Fb", "a/b"), ("a/b", "a/b"), ("%", "%"), ("%2", "%2"), ("%zz", "%zz"), ("%C3%A9", "é")];
        for (text, expected) in cases {
            assert_eq!(percent_decoded(text), expected);
        }
    }
}
