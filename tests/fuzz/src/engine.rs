//! An engine over the null backend, which checks every KV slot it reads, and a few requests.

use std::path::Path;
use std::sync::LazyLock;

use tokenmill_backend::{Backend, Load, Model};
use tokenmill_engine::{Config, Engine, Failure, Params, Progress, Request, Samplers};
use tokenmill_policy::sample::View;
use tokenmill_policy::{Fcfs, Named, Scheduler};

use crate::bytes::Bytes;
use crate::log::Log;

/// Masks of it have a second word that is not full.
pub(crate) const VOCAB: u32 = 40;
pub(crate) const SAMPLER: &str = "made";
const MAX_SEQS: u32 = 6;
/// Whatever policies do, everything ends before this one.
const MOST_STEPS: u64 = 20_000;

static BACKEND: LazyLock<Backend> =
    LazyLock::new(|| Backend::from_entry(tokenmill_null::entry).expect("the null backend"));

/// What is asked of the engine, and when.
pub(crate) struct Scene {
    blocks: u32,
    config: Config,
    requests: Vec<Request>,
    /// Steps before which the sampler is replaced and the last request is cancelled; 0: never.
    swap: u64,
    cancel: u64,
}

impl Scene {
    pub(crate) fn read(bytes: &Bytes) -> Self {
        let config = Config {
            max_seqs: MAX_SEQS,
            max_batched_tokens: MAX_SEQS + bytes.below(32),
            depth: 1 + bytes.below(2),
            draft_tokens: bytes.below(4),
            prefix_caching: bytes.yes(),
            ..Config::default()
        };
        Self {
            blocks: 12 + bytes.below(32),
            config,
            swap: bytes.below(24).into(),
            cancel: bytes.below(24).into(),
            requests: (0..1 + bytes.below(4)).map(|nth| request(bytes, nth)).collect(),
        }
    }

    fn engine(&self, scheduler: Box<dyn Scheduler>, samplers: Samplers) -> Engine {
        let options = format!("vocab={VOCAB}\nblocks={}\neos=7@30", self.blocks);
        let load = Load {
            dir: Path::new("."),
            devices: &[0],
            tensor_parallel: 1,
            block_tokens: 4,
            max_tokens: 64,
            max_rows: 64,
            max_seqs: MAX_SEQS,
            depth: 2,
            kv_bytes: 0,
            options: &options,
            progress: None,
        };
        let model: Model = BACKEND.load(&load).expect("the null model");
        Engine::new(model, scheduler, samplers, self.config).expect("the engine")
    }
}

fn request(bytes: &Bytes, nth: u32) -> Request {
    let n = 1 + bytes.below(3);
    let (shared, own) = (bytes.below(12), bytes.below(20));
    Request {
        prompt: (0..shared).chain((0..=own).map(|at| (at * 7 + nth) % VOCAB)).collect(),
        sampling: Params {
            temperature: (bytes.below(3) as f32) / 2.0,
            seed: nth.into(),
            ..Params::default()
        },
        n,
        max_branches: bytes.below(MAX_SEQS as usize + 1),
        max_tokens: bytes.below(12),
        stop_tokens: if bytes.yes() { vec![7] } else { Vec::new() },
        tenant: bytes.below(2).into(),
        prompt_logprobs: bytes.yes().then_some(1),
        // The first one has no policy: it must not notice those of the others.
        sampler: (nth > 0).then(|| SAMPLER.into()),
        ..Request::default()
    }
}

/// Runs a scene until everything has ended; `form`: the sampler is bound to one.
pub(crate) fn play(
    scene: &Scene,
    scheduler: Box<dyn Scheduler>,
    samplers: Samplers,
    form: bool,
    swapped: impl Fn() -> Named,
) {
    let mut engine = scene.engine(scheduler, samplers);
    let handle = engine.handle();
    let submit = |request: &Request| {
        let log = Log::new(request, VOCAB);
        handle.submit(request.clone(), log.output()).ok().map(|id| (id, log))
    };
    let sent: Vec<_> = scene.requests.iter().map(submit).collect();
    let mut cancelled = None;
    for step in 1.. {
        assert!(step < MOST_STEPS, "the engine never rests");
        if step == scene.swap {
            handle.install_sampler(swapped());
        }
        if step == scene.cancel
            && let Some(Some((id, _))) = sent.last()
        {
            handle.cancel(*id);
            cancelled = Some(*id);
        }
        let progress = engine.step(|| step);
        assert_eq!(engine.check(), Ok(()), "after step {step}");
        if progress != Progress::Worked && step > scene.cancel {
            assert_eq!(progress, Progress::Idle);
            break;
        }
    }
    let stats = handle.stats();
    assert_eq!((stats.blocks.used, stats.running, stats.waiting, stats.waiting_tokens), (0, 0, 0, 0));
    assert_eq!(stats.blocks.free + stats.blocks.cached, stats.blocks.total);
    for (request, sent) in scene.requests.iter().zip(sent) {
        let Some((id, log)) = sent else { continue };
        assert!(log.read(|heard| heard.ended()) || cancelled == Some(id), "a request has no end");
        judge(scene, request, &log);
        let inside = |tokens: &[u32]| tokens.len() <= 4 && tokens.iter().all(|token| token % 2 == 0);
        let bound = form && request.sampler.is_some();
        assert!(!bound || log.read(|heard| heard.all(inside)), "a text is outside of its form");
    }
}

/// No policy makes a request fail in a way that is not its own, and none changes what others get.
fn judge(scene: &Scene, request: &Request, log: &Log) {
    let failure = log.read(|heard| heard.failure.clone());
    let chosen = request.sampler.is_some();
    match failure {
        None | Some(Failure::Rejected) => {}
        // It can ban all tokens.
        Some(Failure::Policy { .. } | Failure::Refused(_) | Failure::Numerical) if chosen => {}
        Some(other) => panic!("{other}"),
    }
    if chosen {
        return;
    }
    let mut engine = scene.engine(Box::new(Fcfs::default()), Samplers::default());
    let alone = Log::new(request, VOCAB);
    engine.handle().submit(request.clone(), alone.output()).expect("it was taken before");
    while engine.step(|| 0) == Progress::Worked {}
    for branch in 0..request.n {
        let got = log.read(|heard| heard.tokens(branch).to_vec());
        alone.read(|alone| assert!(alone.tokens(branch).starts_with(&got), "branch {branch}: {got:?}"));
    }
}

/// What a policy is shown fits together.
pub(crate) fn check_rows(view: &dyn View) {
    let rows = view.ids().len();
    let lengths = [
        view.requests().len(),
        view.tenants().len(),
        view.positions().len(),
        view.generated().len(),
        view.remaining().len(),
        view.scores().len(),
        view.seeds().len(),
    ];
    assert!(lengths.iter().all(|len| *len == rows), "{lengths:?}");
    for row in 0..rows {
        let (position, generated) = (view.positions()[row], view.generated()[row]);
        assert!(view.accepted().get(row).len() as u32 <= position && generated < position);
        assert!(view.remaining()[row] > 0 && !view.scores()[row].is_nan());
    }
}
