//! Progress bars on standard error; silent when it is no terminal.

use indicatif::{ProgressBar, ProgressStyle};
use tokenmill_models::Event;

/// One bar that follows a sequence of phases, each counted in bytes.
pub(crate) struct Progress {
    bar: Option<(String, ProgressBar)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { bar: None }
    }

    /// `total` unknown shows a spinner with a byte count.
    pub(crate) fn update(&mut self, phase: &str, done: u64, total: Option<u64>) {
        if self.bar.as_ref().is_none_or(|(current, _)| current != phase) {
            self.finish();
            self.bar = Some((phase.to_owned(), bar(phase, total)));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(done);
        }
    }

    /// Follows what a model download reports.
    pub(crate) fn on_event(&mut self, event: &Event<'_>) {
        match event {
            Event::Info(text) => {
                self.finish();
                tracing::info!("{text}");
            }
            Event::Progress { phase, done, total } => self.update(phase, *done, *total),
        }
    }

    pub(crate) fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn bar(phase: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{prefix:>24} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}")
        }
        None => (ProgressBar::new_spinner(), "{prefix:>24} {spinner} {bytes} {bytes_per_sec}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> ")).with_prefix(phase.to_owned())
}
