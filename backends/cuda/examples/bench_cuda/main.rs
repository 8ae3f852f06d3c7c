//! Times operations and decode steps of the CUDA backend on GPU 0. `bench/gpu/peers.py` runs it beside PyTorch.
//!
//! Without arguments it measures every case and prints one JSON object. `--list` prints the cases; `--serve` measures
//! the case whose name comes in on a line, once for each line.

#![allow(clippy::print_stdout, reason = "it prints its results")]

mod attention;
mod case;
mod clock;
mod geometry;
mod inputs;
mod linear;
mod random_model;
mod rows;
mod steps;

use std::io::{BufRead, Write, stdin, stdout};

use case::Case;
use clock::{Clock, summary};
use inputs::{Failure, open};
use serde_json::{Value, json};
use tokenmill_cuda::{Cuda, Graph};

/// Measurements of a case that runs alone.
const ROUNDS: usize = 5;

/// Something that is timed.
trait Operation {
    /// Queues it. `turn` counts calls: inputs take turns, so that they are not found in the L2 cache.
    fn run(&mut self, device: &mut Cuda, turn: usize) -> Result<(), Failure>;

    /// Whether it is measured in a CUDA graph, as the decoder runs it: not what the host has a part in.
    fn is_recorded(&self) -> bool {
        true
    }
}

/// The case that was measured last is measured again at once.
#[derive(Default)]
struct Bench {
    opened: Option<Opened>,
}

/// A case with its inputs. Each has a device of its own, whose workspaces are made for one size.
struct Opened {
    name: String,
    operation: Box<dyn Operation>,
    clock: Clock,
    /// Calls of a measurement, and a recording of them.
    count: usize,
    recorded: Option<Graph>,
    device: Cuda,
}

impl Opened {
    /// `None`: the case is no single operation.
    fn new(case: &Case) -> Result<Option<Self>, Failure> {
        let mut device = open("graphs=off\ngemm=own")?;
        let Some(mut operation) = case.open(&mut device)? else { return Ok(None) };
        let clock = Clock::new(device.gpu())?;
        let count = clock.calls(&mut device, &mut *operation)?;
        let recorded = operation.is_recorded().then(|| clock::record(&mut device, &mut *operation, count));
        Ok(Some(Self {
            name: case.name.clone(),
            operation,
            clock,
            count,
            recorded: recorded.transpose()?,
            device,
        }))
    }

    /// Microseconds of one call.
    fn time(&mut self) -> Result<f64, Failure> {
        match &self.recorded {
            Some(graph) => self.clock.time_recorded(graph, self.count),
            None => self.clock.time(&mut self.device, &mut *self.operation, self.count),
        }
    }
}

impl Bench {
    /// Microseconds of one call; of cases that are whole steps, their own report.
    fn measure(&mut self, case: &Case) -> Result<Value, Failure> {
        if self.opened.as_ref().is_none_or(|opened| opened.name != case.name) {
            // What it holds goes first.
            self.opened = None;
            self.opened = Opened::new(case)?;
        }
        match &mut self.opened {
            Some(opened) => Ok(json!({ "us": opened.time()? })),
            None => steps::measure(case),
        }
    }

    /// A case with the median of its rounds.
    fn report(&mut self, case: &Case) -> Value {
        let mut report = case.json();
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            match self.measure(case) {
                Ok(Value::Object(mut found)) => match found.get("us").and_then(Value::as_f64) {
                    Some(us) => all.push(us),
                    None => {
                        report.append(&mut found);
                        return report.into();
                    }
                },
                Ok(_) => {}
                Err(error) => {
                    report.insert("error".to_owned(), error.to_string().into());
                    return report.into();
                }
            }
        }
        report.insert("ours".to_owned(), summary(&all));
        report.into()
    }
}

fn main() -> Result<(), Failure> {
    let cases = case::all();
    match std::env::args().nth(1).as_deref() {
        None => {
            let mut bench = Bench::default();
            let reports: Vec<Value> = cases.iter().map(|case| bench.report(case)).collect();
            println!("{}", serde_json::to_string_pretty(&json!({ "cases": reports }))?);
            let failed = reports.iter().filter(|report| report.get("error").is_some()).count();
            if failed > 0 {
                return Err(format!("{failed} cases were not measured").into());
            }
        }
        Some("--list") => println!("{}", Value::from_iter(cases.iter().map(|case| Value::from(case.json())))),
        Some("--serve") => serve(&cases)?,
        Some(other) => return Err(format!("{other}: there are --list and --serve").into()),
    }
    Ok(())
}

fn serve(cases: &[Case]) -> Result<(), Failure> {
    let mut bench = Bench::default();
    for line in stdin().lock().lines() {
        let name = line?;
        let answer = match cases.iter().find(|case| case.name == name) {
            Some(case) => bench.measure(case),
            None => Err(format!("there is no case {name}").into()),
        };
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        println!("{answer}");
        stdout().flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The same code on the emulator, so that it does not rot between two runs on a device.
    #[test]
    fn small_cases_of_every_kind_run_and_report_a_time() {
        tokenmill_emulator::preload();
        let mut bench = Bench::default();
        for case in case::small() {
            let report = bench.report(&case);
            println!("{report}");
            let time = report["ours"]["median"].as_f64().or(report["step_us"]["median"].as_f64());
            assert!(time.is_some_and(|time| time > 0.0), "{report}");
        }
    }

    #[test]
    fn names_of_cases_are_unique() {
        let mut names: Vec<_> = case::all().into_iter().map(|case| case.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
