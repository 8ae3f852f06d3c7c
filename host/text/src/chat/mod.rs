//! Chat templates: a conversation becomes the text the model was trained on.
mod clock;
mod compiled;
pub(crate) mod messages;
mod methods;
mod python_json;
pub(crate) mod template;
