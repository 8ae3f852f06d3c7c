//! Counters and histograms, and their Prometheus text (exposition format 0.0.4).
//!
//! Everything is present with 0 from the first scrape. The `vllm:` names are those that inference gateways
//! and dashboards read; the `tokenmill_` names are ours.

use crate::app::Server;
use crate::policies::PolicyCounts;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokenmill_engine::Stats;

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds in microseconds, from 250 µs to 80 s.
const BOUNDS: [u64; 18] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 40_000_000, 80_000_000,
];

/// Times by bucket, with their sum.
#[derive(Default)]
pub(crate) struct Histogram {
    /// The last one is beyond all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, time: Duration, count: u64) {
        self.observe_us(time.as_micros() as u64, count);
    }

    pub(crate) fn observe_us(&self, us: u64, count: u64) {
        let bucket = BOUNDS.partition_point(|&bound| bound < us);
        self.buckets[bucket].fetch_add(count, Ordering::Relaxed);
        self.sum_us.fetch_add(us * count, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(crate) struct Metrics {
    /// Arrival to first token.
    pub(crate) first_token_time: Histogram,
    /// Between two tokens of a request.
    pub(crate) token_time: Histogram,
    /// Arrival to the end of the answer.
    pub(crate) request_time: Histogram,
    /// Arrival at the engine to its first step.
    pub(crate) queue_time: Histogram,
    /// Answers that ended by a stop, by length, by an error, and because the client left.
    pub(crate) stopped: Counter,
    pub(crate) cut: Counter,
    pub(crate) failed: Counter,
    pub(crate) aborted: Counter,
    pub(crate) frames: Counter,
    pub(crate) connections: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) panics: Counter,
    /// Responses by the first digit of their status.
    pub(crate) responses: [Counter; 6],
}

impl Metrics {
    pub(crate) fn response(&self, status: u16) {
        self.responses[usize::from(status / 100).min(5)].add(1);
    }
}

/// The page of `/metrics`.
pub(crate) fn page(server: &Server) -> String {
    let stats = server.app.engine.stats();
    let mut page = Page { out: String::with_capacity(16 << 10), model: label(&server.app.card.name) };
    page.vllm(&stats, server);
    page.ours(&stats, server);
    page.out
}

struct Page {
    out: String,
    /// `model_name="…"`
    model: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.out, "{name}{{{}}} {value}", self.model);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        let _ = writeln!(self.out, "{name}{{{}}} {value}", self.model);
    }

    /// One counter with a further label.
    fn counters(&mut self, name: &str, help: &str, key: &str, values: &[(&str, u64)]) {
        self.head(name, "counter", help);
        for (value, count) in values {
            let _ = writeln!(self.out, "{name}{{{},{key}=\"{value}\"}} {count}", self.model);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut count = 0;
        for (i, bucket) in histogram.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS.get(i).map_or("+Inf".to_owned(), |&us| (us as f64 / 1e6).to_string());
            let _ = writeln!(self.out, "{name}_bucket{{{},le=\"{bound}\"}} {count}", self.model);
        }
        let sum = histogram.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ =
            writeln!(self.out, "{name}_sum{{{}}} {sum}\n{name}_count{{{}}} {count}", self.model, self.model);
    }

    fn info(&mut self, name: &str, help: &str, labels: &str, value: u64) {
        self.head(name, "gauge", help);
        let _ = writeln!(self.out, "{name}{{{labels}}} {value}");
    }

    fn vllm(&mut self, stats: &Stats, server: &Server) {
        let metrics = &server.metrics;
        let limits = server.app.engine.limits();
        let used = stats.blocks.used as f64 / stats.blocks.total.max(1) as f64;
        self.gauge("vllm:num_requests_running", "Sequences that hold KV blocks.", stats.running as f64);
        self.gauge(
            "vllm:num_requests_waiting",
            "Requests that wait to start or go on.",
            stats.waiting as f64,
        );
        self.gauge("vllm:kv_cache_usage_perc", "KV blocks in use; 1 is all.", used);
        let blocks = format!("block_size=\"{}\",num_gpu_blocks=\"{}\"", limits.block_tokens, limits.n_blocks);
        self.info("vllm:cache_config_info", "Sizes of the KV cache.", &blocks, 1);
        let lora = "max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"";
        self.info("vllm:lora_requests_info", "Adapters in use.", lora, 0);
        self.counter("vllm:prompt_tokens_total", "Prompt tokens of started requests.", stats.prompt_tokens);
        self.counter("vllm:generation_tokens_total", "Tokens generated.", stats.generated_tokens);
        self.counter("vllm:prefix_cache_queries_total", "Tokens looked up.", stats.prefix_queries);
        self.counter("vllm:prefix_cache_hits_total", "Tokens found.", stats.prefix_hits);
        self.counter("vllm:num_preemptions_total", "Sequences stopped to free blocks.", stats.preemptions);
        let finished = [
            ("stop", metrics.stopped.get()),
            ("length", metrics.cut.get()),
            ("abort", metrics.aborted.get()),
            ("error", metrics.failed.get()),
        ];
        self.counters(
            "vllm:request_success_total",
            "Answers by how they ended.",
            "finished_reason",
            &finished,
        );
        let drafts = [
            ("drafts", "Times that tokens were guessed ahead.", stats.drafts),
            ("draft_tokens", "Tokens guessed.", stats.draft_tokens),
            ("accepted_tokens", "Tokens guessed right.", stats.accepted_tokens),
        ];
        for (kind, help, count) in drafts {
            self.counter(&format!("vllm:spec_decode_num_{kind}_total"), help, count);
        }
        let times = [
            ("vllm:time_to_first_token_seconds", "Arrival to first token.", &metrics.first_token_time),
            ("vllm:inter_token_latency_seconds", "Between two tokens.", &metrics.token_time),
            ("vllm:e2e_request_latency_seconds", "Arrival to the end.", &metrics.request_time),
            ("vllm:request_queue_time_seconds", "Arrival to the first step.", &metrics.queue_time),
        ];
        for (name, help, histogram) in times {
            self.histogram(name, help, histogram);
        }
    }

    fn ours(&mut self, stats: &Stats, server: &Server) {
        let metrics = &server.metrics;
        self.gauge("tokenmill_blocks", "KV blocks.", stats.blocks.total as f64);
        self.gauge("tokenmill_blocks_used", "KV blocks held by sequences.", stats.blocks.used as f64);
        self.gauge(
            "tokenmill_blocks_cached",
            "Free KV blocks with a known prefix.",
            stats.blocks.cached as f64,
        );
        self.gauge("tokenmill_waiting_tokens", "Prompt tokens in the queue.", stats.waiting_tokens as f64);
        self.gauge("tokenmill_http_requests_in_flight", "Answers not finished.", server.live.len() as f64);
        self.gauge("tokenmill_draining", "1 while shutting down.", f64::from(u8::from(server.draining())));
        self.gauge("tokenmill_engine_hung", "1 while no step ends.", f64::from(u8::from(server.hung())));
        self.counter("tokenmill_steps_total", "Steps of the engine.", stats.steps);
        self.counter("tokenmill_computed_tokens_total", "Tokens computed in steps.", stats.computed_tokens);
        self.counter("tokenmill_sse_frames_total", "Frames streamed.", metrics.frames.get());
        self.counter("tokenmill_connections_total", "Connections accepted.", metrics.connections.get());
        let refused = metrics.connections_refused.get();
        self.counter("tokenmill_connections_refused_total", "Connections over a limit.", refused);
        self.counter("tokenmill_panics_total", "Handlers that panicked.", metrics.panics.get());
        let classes = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"];
        let responses: Vec<_> =
            classes.iter().zip(&metrics.responses).skip(2).map(|(&class, n)| (class, n.get())).collect();
        self.counters("tokenmill_http_responses_total", "Responses by status.", "status", &responses);
        let fallbacks = stats.policy_fallbacks;
        let fallbacks = [("scheduler", fallbacks.scheduler), ("sampler", fallbacks.sampler)];
        let help = "Steps decided by a default instead.";
        self.counters("tokenmill_policy_fallbacks_total", help, "kind", &fallbacks);
        self.counter("tokenmill_forks_refused_total", "Branches beyond a limit.", stats.forks_refused);
        self.policies(&server.app.policies.as_ref().map(|policies| policies.counts()).unwrap_or_default());
    }

    fn policies(&mut self, all: &[PolicyCounts]) {
        let labels: Vec<_> =
            all.iter().map(|one| format!("policy=\"{}\",kind=\"{}\"", one.name, one.kind)).collect();
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&PolicyCounts) -> f64| {
            self.head(name, kind, help);
            for (one, labels) in all.iter().zip(&labels) {
                let _ = writeln!(self.out, "{name}{{{},{labels}}} {}", self.model, value(one));
            }
        };
        let (name, help) = ("tokenmill_policy_calls_total", "Calls of a loaded policy.");
        family(name, "counter", help, &|one| one.calls as f64);
        let (name, help) = ("tokenmill_policy_seconds_total", "Time in them, the device's included.");
        family(name, "counter", help, &|one| one.busy_us as f64 / 1e6);
        let (name, help) = ("tokenmill_policy_quarantined", "1 while a policy is not asked any more.");
        family(name, "gauge", help, &|one| f64::from(u8::from(one.quarantined)));
        let name = "tokenmill_policy_failures_total";
        self.head(name, "counter", "Calls without a decision.");
        for (one, labels) in all.iter().zip(&labels) {
            for (reason, count) in &one.failures {
                let _ = writeln!(self.out, "{name}{{{},{labels},reason=\"{reason}\"}} {count}", self.model);
            }
        }
    }
}

/// A label with its value escaped as the exposition format says.
fn label(name: &str) -> String {
    let value = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("model_name=\"{value}\"")
}
