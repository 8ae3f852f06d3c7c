//! What `tokenmill policy bench` measures.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokenmill_policy::{Error as NoDecision, Host, Sampler, Scheduler};

use crate::plugin::{Kind, Plugin};
use crate::synthetic::{Queue, Rows};
use crate::{Error, Runtime};

/// The same policy compiled in, already configured.
pub enum Native {
    Sampler(Box<dyn Sampler>),
    Scheduler(Box<dyn Scheduler>),
}

/// Costs of a policy on made-up views.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    pub kind: Kind,
    pub id: String,
    pub bytes: usize,
    /// Median, without `configure`.
    pub instantiate_us: f64,
    pub configure_us: f64,
    /// Private memory that an instance holds after `configure`.
    pub idle_instance_kib: Option<f64>,
    /// By size, up to where the policy failed so often that it is not called any more.
    pub steps: Vec<Timing>,
}

/// Medians over steps of one size.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// Rows of a sampler, sequences of a scheduler.
    pub rows: u32,
    pub us_per_step: f64,
    pub us_per_row: f64,
    /// Of the same policy compiled in.
    pub native_us_per_step: Option<f64>,
    /// Steps without a decision.
    pub undecided: u32,
}

const ROWS: &[u32] = &[1, 64, 256, 1024];
const SEQUENCES: &[u32] = &[1, 64, 256, 1024, 4096];
const WARM_UP: u32 = 20;
/// A policy and the same compiled in take turns, so that what else the machine does hits both: for each size so many
/// turns, of as many steps as fit.
const TURNS: u32 = 15;
const TURN: Duration = Duration::from_millis(10);
const INSTANCES: usize = 100;

/// Times a policy, and the same compiled in if there is one.
pub fn bench(
    runtime: &Runtime,
    bytes: &[u8],
    config: &str,
    host: Host,
    mut native: Option<Native>,
) -> Result<BenchReport, Error> {
    let plugin = Plugin::load(runtime, "bench", bytes, config, host)?;
    plugin.self_test()?;
    let (instantiate_us, configure_us, idle_instance_kib) = instances(&plugin)?;
    let mut steps = Vec::new();
    let sizes = match plugin.kind() {
        Kind::Sampler => ROWS,
        Kind::Scheduler => SEQUENCES,
    };
    for &rows in sizes {
        let mut policy = match plugin.kind() {
            Kind::Sampler => Native::Sampler(plugin.sampler()?),
            Kind::Scheduler => Native::Scheduler(plugin.scheduler()?),
        };
        let mut course = Course::new(&mut policy, rows, plugin.vocab());
        let mut compiled_in = native.as_mut().map(|native| Course::new(native, rows, plugin.vocab()));
        for _ in 0..TURNS {
            course.run();
            compiled_in.iter_mut().for_each(Course::run);
        }
        let undecided = course.undecided;
        let us_per_step = median(course.times);
        if plugin.health().quarantined {
            // It is not called any more: there is nothing to measure.
            break;
        }
        let native_us_per_step = compiled_in.map(|course| median(course.times));
        let us_per_row = us_per_step / f64::from(rows);
        steps.push(Timing { rows, us_per_step, us_per_row, native_us_per_step, undecided });
    }
    let (kind, id, bytes) = (plugin.kind(), plugin.id().into(), plugin.bytes());
    Ok(BenchReport { kind, id, bytes, instantiate_us, configure_us, idle_instance_kib, steps })
}

/// Steps of one policy and one size.
struct Course<'a> {
    step: Box<dyn FnMut() -> (Result<(), NoDecision>, Duration) + 'a>,
    times: Vec<Duration>,
    undecided: u32,
}

impl<'a> Course<'a> {
    fn new(policy: &'a mut Native, rows: u32, vocab: u32) -> Self {
        let mut step: Box<dyn FnMut() -> (Result<(), NoDecision>, Duration) + 'a> = match policy {
            Native::Sampler(sampler) => {
                let mut scene = Rows::new(rows, vocab);
                Box::new(move || (scene.step(&mut **sampler), scene.took))
            }
            Native::Scheduler(scheduler) => {
                let mut scene = Queue::new(rows);
                Box::new(move || (scene.step(&mut **scheduler), scene.took))
            }
        };
        let undecided = (0..WARM_UP).map(|_| u32::from(step().0.is_err())).sum();
        Self { step, times: Vec::new(), undecided }
    }

    fn run(&mut self) {
        let began = Instant::now();
        while self.times.is_empty() || began.elapsed() < TURN {
            let (asked, took) = (self.step)();
            self.undecided += u32::from(asked.is_err());
            self.times.push(took);
        }
    }
}

/// Microseconds to make an instance and to configure it, and the memory of an idle one.
fn instances(plugin: &Plugin) -> Result<(f64, f64, Option<f64>), Error> {
    let count = INSTANCES.min(plugin.limits().instances as usize / 2).max(1);
    let (mut starts, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let began = Instant::now();
        drop(plugin.recipe().start(plugin.limits().configure)?);
        starts.push(began.elapsed());
    }
    let before = private_kib();
    let mut held = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        held.push(plugin.recipe().make(plugin.limits().configure)?);
        whole.push(began.elapsed());
        if whole.iter().sum::<Duration>() > Duration::from_secs(2) {
            break;
        }
    }
    let each = |after: f64, before: f64| (after - before).max(0.0) / held.len() as f64;
    let memory = private_kib().zip(before).map(|(after, before)| each(after, before));
    let start = median(starts);
    Ok((start, (median(whole) - start).max(0.0), memory))
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

/// Memory that is this process's alone and was written to; on Linux.
fn private_kib() -> Option<f64> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of {} bytes, sha256 {}", self.kind, self.bytes, self.id)?;
        write!(f, "instantiate {:.1} µs, configure {:.1} µs", self.instantiate_us, self.configure_us)?;
        if let Some(kib) = self.idle_instance_kib {
            write!(f, ", {kib:.0} KiB per idle instance")?;
        }
        write!(f, "\n  rows    µs/step     µs/row  native µs/step  undecided")?;
        for step in &self.steps {
            write!(f, "\n{:6} {:10.2} {:10.3}", step.rows, step.us_per_step, step.us_per_row)?;
            match step.native_us_per_step {
                Some(native) => write!(f, " {native:15.2}")?,
                None => write!(f, " {:>15}", "-")?,
            }
            write!(f, " {:10}", step.undecided)?;
        }
        Ok(())
    }
}
