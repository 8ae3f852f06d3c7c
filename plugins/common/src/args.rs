use std::str::FromStr;

use tokenmill_policy::sample::View;

/// The arguments of one row's request: the fields `policy.args.<key>`. Reading one is a call of the host,
/// so a policy reads them when it first sees a sequence.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    view: &'a dyn View,
    row: usize,
}

impl<'a> Args<'a> {
    pub fn new(view: &'a dyn View, row: usize) -> Self {
        Self { view, row }
    }

    /// An argument that is a number, true or false; none if the request does not have it. The error is for
    /// the client and names the argument.
    pub fn get<T: FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        let Some(text) = self.view.attribute(self.row, key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("policy.args.{key} is not of the right type: {text}"))
    }
}
