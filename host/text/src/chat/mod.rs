//! Chat templates: a conversation becomes the text the model was trained on.
mod clock;
pub(crate) mod messages;
mod methods;
mod python_json;
pub(crate) mod template;
