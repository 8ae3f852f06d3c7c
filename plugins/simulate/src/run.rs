//! The steps of some requests under one policy.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use tokenmill_policy::Error;
use tokenmill_policy::sample::{Attributes, Choices, Columns, Knobs, Logits, Ragged, Sampler, View};

use crate::Asked;
use crate::device::{Row, Turned, sample, sorted};

/// Ids are never used again, in no simulation.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Why a branch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Stop,
    Length,
    /// The policy finished it; its text stays.
    Finished,
    /// The policy did not list it; its text is dropped.
    Pruned,
}

/// A branch that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// Without the prompt.
    pub tokens: Vec<u32>,
    /// Sum of log-probabilities under the raw logits.
    pub score: f32,
    pub end: End,
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// In order of their ends.
    pub branches: Vec<Branch>,
    pub refused: Option<String>,
    /// Rows of it that were inspected.
    pub inspected: usize,
    /// Steps in which it had a row.
    pub steps: usize,
}

struct Live {
    id: u64,
    request: usize,
    tokens: Vec<u32>,
    score: f32,
    seed: u64,
    /// Tokens that the policy was told of.
    told: usize,
}

struct Fields<'a>(Vec<&'a Asked>);

impl Attributes for Fields<'_> {
    fn attribute(&self, row: usize, key: &str) -> Option<&str> {
        self.0[row].args.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn stop_tokens(&self, row: usize) -> Cow<'_, [u32]> {
        Cow::Borrowed(&self.0[row].stop_tokens)
    }
}

/// A policy that leaves everything to the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Sampler for Nothing {
    fn plan(&mut self, _: &dyn View, _: &mut Knobs) -> Result<(), Error> {
        Ok(())
    }
}

/// Runs `requests` to their ends and returns what became of each.
pub fn run(
    sampler: &mut dyn Sampler,
    model: &dyn Fn(&[u32]) -> Vec<f32>,
    requests: &[Asked],
) -> Vec<Outcome> {
    let mut simulation = Simulation {
        requests,
        outcomes: vec![Outcome::default(); requests.len()],
        live: Vec::new(),
        finished: Vec::new(),
        branches: 0,
    };
    for (request, asked) in requests.iter().enumerate() {
        for _ in 0..asked.n {
            simulation.add(request, asked.prompt.clone(), 0.0);
        }
    }
    while !simulation.live.is_empty() {
        simulation.step(sampler, model);
    }
    simulation.outcomes
}

struct Simulation<'a> {
    requests: &'a [Asked],
    outcomes: Vec<Outcome>,
    live: Vec<Live>,
    finished: Vec<u64>,
    /// Branches so far, for their seeds.
    branches: u64,
}

impl Simulation<'_> {
    fn add(&mut self, request: usize, tokens: Vec<u32>, score: f32) {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let seed = self.requests[request].seed.wrapping_add(self.branches << 32);
        self.live.push(Live { id, request, tokens, score, seed, told: 0 });
        self.branches += 1;
    }

    fn step(&mut self, sampler: &mut dyn Sampler, model: &dyn Fn(&[u32]) -> Vec<f32>) {
        let rows = Row(self.live.iter().map(|live| model(&live.tokens)).collect());
        let (knobs, choices) = self.ask(sampler, rows.clone());
        let mut live = std::mem::take(&mut self.live);
        for one in &live {
            let outcome = &mut self.outcomes[one.request];
            outcome.steps = outcome.steps.max(one.tokens.len() + 1 - self.requests[one.request].prompt.len());
        }
        for &(row, ref why) in &knobs.refuse {
            self.outcomes[live[row as usize].request].refused = Some(why.clone());
        }
        for &row in &knobs.inspect {
            self.outcomes[live[row as usize].request].inspected += 1;
        }
        for (row, one) in live.iter_mut().enumerate() {
            let row = row as u32;
            if self.outcomes[one.request].refused.is_some() {
                self.finished.push(one.id);
            } else if choices.finish.contains(&row) {
                self.end(one, End::Finished);
            } else if !knobs.inspect.contains(&row) || choices.defer.contains(&row) {
                self.extend(one, None, row, &rows, &knobs);
            } else {
                self.accept(one, row, &rows, &knobs, &choices);
            }
        }
        // Forks that end at once, and those in the place of branches that end in this step, count for nothing.
        for (request, asked) in self.requests.iter().enumerate() {
            let live = self.live.iter().filter(|live| live.request == request).count();
            assert!(live <= asked.max_branches, "{live} branches");
        }
    }

    /// Continues a row with its first token and forks it for the others.
    fn accept(&mut self, one: &mut Live, row: u32, rows: &Row, knobs: &Knobs, choices: &Choices) {
        let mut tokens = choices.accept.iter().filter(|accept| accept.0 == row).map(|accept| accept.1);
        let Some(first) = tokens.next() else {
            self.end(one, End::Pruned);
            return;
        };
        for token in tokens {
            self.add(one.request, one.tokens.clone(), one.score);
            if let Some(mut fork) = self.live.pop() {
                self.extend(&mut fork, Some(token), row, rows, knobs);
            }
        }
        self.extend(one, Some(first), row, rows, knobs);
    }

    /// Gives a branch its next token; the device samples it where the policy did not pick one.
    fn extend(&mut self, one: &mut Live, token: Option<u32>, row: u32, rows: &Row, knobs: &Knobs) {
        let asked = &self.requests[one.request];
        let logits = &rows.0[row as usize];
        let turned = Turned { temperature: asked.temperature, top_k: 0, top_p: 1.0, min_p: 0.0 };
        let seed = seed(one) ^ 1;
        let token = token.unwrap_or_else(|| sample(row, logits, turned, knobs, seed));
        one.score += sorted(logits).iter().find(|one| one.0 == token).map_or(f32::NAN, |one| one.1);
        one.tokens.push(token);
        let length = one.tokens.len() - asked.prompt.len();
        if asked.stop_tokens.contains(&token) {
            self.end(one, End::Stop);
        } else if length as u32 == asked.max_tokens {
            self.end(one, End::Length);
        } else {
            let tokens = std::mem::take(&mut one.tokens);
            self.live.push(Live { tokens, ..*one });
        }
    }

    fn end(&mut self, one: &Live, end: End) {
        let tokens = one.tokens[self.requests[one.request].prompt.len()..].to_vec();
        self.outcomes[one.request].branches.push(Branch { tokens, score: one.score, end });
        self.finished.push(one.id);
    }

    /// Shows the policy its columns; what it is told of is not told again.
    fn ask(&mut self, sampler: &mut dyn Sampler, mut rows: Row) -> (Knobs, Choices) {
        let asked = |live: &Live| &self.requests[live.request];
        let column = |of: &dyn Fn(&Live) -> u32| self.live.iter().map(of).collect::<Vec<_>>();
        let (ids, seeds): (Vec<_>, Vec<_>) = self.live.iter().map(|live| (live.id, seed(live))).unzip();
        let requests: Vec<u64> = self.live.iter().map(|live| live.request as u64 + 100).collect();
        let scores: Vec<f32> = self.live.iter().map(|live| live.score).collect();
        let positions = column(&|live| live.tokens.len() as u32);
        let generated = column(&|live| (live.tokens.len() - asked(live).prompt.len()) as u32);
        let remaining =
            column(&|live| asked(live).max_tokens - (live.tokens.len() - asked(live).prompt.len()) as u32);
        let (mut starts, mut values) = (vec![0], Vec::new());
        for live in &self.live {
            values.extend_from_slice(&live.tokens[live.told..]);
            starts.push(values.len() as u32);
        }
        let fields = Fields(self.live.iter().map(asked).collect());
        let none = vec![0; ids.len() + 1];
        let finished = std::mem::take(&mut self.finished);
        let view = Columns {
            ids: &ids,
            requests: &requests,
            tenants: &[],
            positions: &positions,
            generated: &generated,
            remaining: &remaining,
            scores: &scores,
            seeds: &seeds,
            accepted: Ragged { starts: &starts, values: &values },
            assumed: Ragged { starts: &none, values: &[] },
            finished: &finished,
            attributes: Some(&fields),
        };
        let (mut knobs, mut choices) = (Knobs::default(), Choices::default());
        sampler.plan(&view, &mut knobs).unwrap();
        knobs.check(ids.len(), rows.vocab()).unwrap();
        if !knobs.inspect.is_empty() {
            sampler.pick(&view, &mut rows, &knobs.inspect, &mut choices).unwrap();
            choices.check(&knobs.inspect, rows.vocab()).unwrap();
        }
        self.live.iter_mut().for_each(|live| live.told = live.tokens.len());
        (knobs, choices)
    }
}

/// Mixes a branch's seed with its position (the finaliser of MurmurHash3).
fn seed(live: &Live) -> u64 {
    let mut z = live.seed.wrapping_mul(31).wrapping_add(live.tokens.len() as u64);
    z = (z ^ (z >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    z = (z ^ (z >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    z ^ (z >> 33)
}
