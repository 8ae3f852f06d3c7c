//! One search: which candidates of a step go on, which finish, and when it is over.

use crate::settings::{Settings, Stopping};

/// A text that a step could lead to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Beam {
    /// Row whose text it continues.
    pub(crate) row: u32,
    pub(crate) token: u32,
    /// Sum of log-probabilities, the token's included.
    pub(crate) score: f32,
}

#[derive(Debug)]
pub(crate) struct Search {
    settings: Settings,
    /// Scores of the best finished texts, best first, `width` at most.
    finished: Vec<f32>,
    /// Beams that go on.
    running: usize,
}

impl Search {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, finished: Vec::new(), running: 0 }
    }

    /// Candidates to look at of each row, so that `width` beams go on even if others end.
    pub(crate) fn candidates(&self, stops: usize) -> u32 {
        self.settings.width * (stops as u32 + 1).max(2)
    }

    /// The texts to keep of the candidates that `rows` beams have in a step, whose length is `length`; no
    /// text gets longer than `longest`. Nothing goes on once the search is over.
    pub(crate) fn step(
        &mut self,
        mut beams: Vec<Beam>,
        rows: usize,
        length: u32,
        longest: u32,
        stops: &[u32],
    ) -> Vec<Beam> {
        let width = self.settings.width as usize;
        // Beams without a row in this step keep their places.
        let room = if rows < self.running { rows } else { width };
        beams.sort_by(|a, b| b.score.total_cmp(&a.score));
        let ends = |beam: &&Beam| length == longest || stops.contains(&beam.token);
        // Beyond the best `width`, candidates only stand in for those that end.
        let ending: Vec<Beam> = beams.iter().take(width).filter(ends).copied().collect();
        let mut accepted: Vec<Beam> = beams.iter().filter(|beam| !ends(beam)).take(room).copied().collect();
        let ended = self.finish(ending, length);
        if self.over(accepted.first(), length, longest) {
            accepted.clear();
        }
        self.running = self.running.saturating_sub(rows) + accepted.len();
        accepted.extend(ended);
        accepted
    }

    /// Takes texts that end among the finished ones, as far as they are better; returns those.
    fn finish(&mut self, ending: Vec<Beam>, length: u32) -> Vec<Beam> {
        let score = |beam: &Beam| beam.score / self.power(length);
        let mut all: Vec<(f32, Option<Beam>)> = self.finished.iter().map(|&score| (score, None)).collect();
        all.extend(ending.into_iter().map(|beam| (score(&beam), Some(beam))));
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(self.settings.width as usize);
        self.finished = all.iter().map(|(score, _)| *score).collect();
        all.into_iter().filter_map(|(_, beam)| beam).collect()
    }

    /// Whether no beam is worth to go on, `best` being the best of them.
    fn over(&self, best: Option<&Beam>, length: u32, longest: u32) -> bool {
        let Settings { width, length_penalty, early_stopping } = self.settings;
        let Some(best) = best else { return true };
        let Some(worst) = self.finished.get(width as usize - 1) else { return false };
        // Scores are negative, so that a longer text is better if the penalty is positive.
        let at = if early_stopping == Stopping::Sure && length_penalty > 0.0 { longest } else { length };
        early_stopping == Stopping::Full || best.score / self.power(at) <= *worst
    }

    fn power(&self, length: u32) -> f32 {
        libm::pow(f64::from(length), self.settings.length_penalty) as f32
    }
}
