//! The OpenAI HTTP API over an engine: requests are read, checked, tokenised and submitted; tokens become
//! text, frames and answers. A client's field is honoured or refused with a 400 that names it.
//!
//! ```text
//! loading     answers before there is a model
//! server      accepts, limits, drains           router    path and method to a route, key, request id
//! fields      a body as named fields            params    the fields of a completion with their ranges
//! prompt      strings and messages to ids       job       a request that was understood
//! queue       engine thread to task             answer    events to text per choice
//! admin       the operator's listener     policies  what it acts on
//! sse, whole  an answer as frames, in one piece error     every status code and error body
//! ```
//!
//! Invariant: the only place with status codes, and the only one that knows both text and requests. It knows
//! nothing of backends, blocks or policies, reads no files and no environment, and its handlers never block.
#![forbid(unsafe_code)]

mod admin;
mod answer;
mod app;
mod auth;
mod body;
mod caller;
mod choice;
mod connection;
mod error;
mod fields;
mod generation;
mod job;
mod json;
mod limits;
mod live;
mod loading;
mod logprobs;
mod metrics;
mod params;
mod policies;
mod prompt;
mod queue;
mod router;
mod routes;
mod server;
mod shape;
mod silence;
mod slots;
mod sse;
mod steering;
#[cfg(test)]
mod testing;
mod watchdog;
mod whole;

pub use admin::{Admin, admin};
pub use app::{App, Card, Defaults};
pub use limits::Limits;
pub use loading::loading;
pub use policies::{Policies, PolicyCounts, PolicyError, Upload};
pub use server::serve;
