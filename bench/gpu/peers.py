#!/usr/bin/env python3
"""Our operations and PyTorch's on one GPU by turns: peers.py BENCH_CUDA [PREFIX…]; prints one JSON object.

BENCH_CUDA (backends/cuda/examples/bench_cuda) owns the table of cases and times ours; here are the peers of each kind
of case. A round measures ours, then each peer; the median of five rounds counts. Peers that are not installed or do
not take a shape are named with the reason. Without PyTorch ours is measured alone.
"""

import json
import signal
import statistics
import subprocess
import sys

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as missing:
    torch, why_no_torch = None, str(missing)
try:
    import flashinfer
except Exception as missing:  # It may fail to compile, too.
    flashinfer, why_no_flashinfer = None, f"{type(missing).__name__}: {missing}"

ROUNDS = 5
# Of one measurement.
SECONDS = 0.02
# Inputs that are read over and over must not stay in the L2 cache: as many are used by turns as exceed this.
ROTATE_BYTES = 256 << 20
MAX_COPIES = 64


class Ours:
    """bench_cuda, which measures one case for each name it reads."""

    def __init__(self, program):
        self.cases = json.loads(subprocess.run([program, "--list"], stdout=subprocess.PIPE, check=True).stdout)
        self.process = subprocess.Popen([program, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, name):
        print(name, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{name}: bench_cuda ended with status {self.process.wait()}")
        return json.loads(line)


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def copies(tensor_bytes):
    return min(MAX_COPIES, max(1, -(-ROTATE_BYTES // tensor_bytes)))


def linear(m, n, k, **_):
    """cuBLASLt, as torch.matmul chooses."""
    x = normal(m, k)
    weights = [normal(n, k) for _ in range(copies(2 * n * k))]
    out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    yield "torch.matmul", [lambda w=w: torch.matmul(x, w.t(), out=out) for w in weights]


def prefill(tokens, query_heads, kv_heads, dim, **_):
    q = normal(1, query_heads, tokens, dim)
    k, v = normal(1, kv_heads, tokens, dim), normal(1, kv_heads, tokens, dim)
    for name, backend in (("SDPA flash", SDPBackend.FLASH_ATTENTION), ("SDPA cuDNN", SDPBackend.CUDNN_ATTENTION)):
        def attend(backend=backend):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        yield name, [attend]


def decode(sequences, keys, query_heads, kv_heads, dim, block_tokens, **_):
    """FlashInfer over the same pages; SDPA over contiguous keys, which is what a model without pages would read."""
    layers = copies(4 * sequences * keys * kv_heads * dim)
    q = normal(sequences, query_heads, dim)
    if flashinfer:
        blocks = -(-keys // block_tokens)
        table = torch.randperm(sequences * blocks, device="cuda").to(torch.int32)
        starts = torch.arange(0, sequences + 1, device="cuda", dtype=torch.int32) * blocks
        last = torch.full((sequences,), keys - (blocks - 1) * block_tokens, device="cuda", dtype=torch.int32)
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            torch.empty(128 << 20, device="cuda", dtype=torch.uint8), "HND")
        wrapper.plan(starts, table, last, query_heads, kv_heads, dim, block_tokens,
                     q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
        pages = [normal(sequences * blocks, 2, kv_heads, block_tokens, dim) for _ in range(layers)]
        yield "FlashInfer", [lambda kv=kv: wrapper.run(q, kv) for kv in pages]
        del pages
    else:
        yield "FlashInfer", why_no_flashinfer
    kv = [(normal(sequences, kv_heads, keys, dim), normal(sequences, kv_heads, keys, dim)) for _ in range(layers)]
    rows = q[:, :, None, :]
    yield "SDPA", [lambda k=k, v=v: F.scaled_dot_product_attention(rows, k, v, enable_gqa=True) for k, v in kv]


def sample(rows, vocab, top_k, top_p, **_):
    logits = torch.randn(rows, vocab, device="cuda") * 4

    def by_sorting():
        values, order = torch.sort(logits, dim=-1, descending=True)
        values[:, top_k:] = float("-inf")
        probabilities = torch.softmax(values, dim=-1)
        # What comes after the sum reached top_p goes.
        probabilities[torch.cumsum(probabilities, dim=-1) - probabilities > top_p] = 0
        return order.gather(-1, torch.multinomial(probabilities, 1))
    yield "torch.sort and multinomial", [by_sorting]
    if flashinfer:
        yield "FlashInfer", [lambda: flashinfer.sampling.top_k_top_p_sampling_from_logits(logits, top_k, top_p)]
    else:
        yield "FlashInfer", why_no_flashinfer


def copy(bytes, **_):
    source = torch.empty(bytes, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    yield "Tensor.copy_", [lambda: target.copy_(source)]
    numbers = torch.zeros(bytes // 4, device="cuda")
    yield "torch.sum, which only reads", [lambda: numbers.sum()]


def norm(rows, cols, **_):
    x, weight = normal(rows, cols), normal(cols)
    yield "F.rms_norm, without the sum", [lambda: F.rms_norm(x, (cols,), weight)]


PEERS = {"linear": linear, "prefill": prefill, "decode": decode, "sample": sample, "copy": copy, "norm": norm}


class Timed:
    """A graph of many calls, so that Python's own time does not count; plain calls where that cannot be recorded."""

    def __init__(self, calls):
        for call in calls[:2]:
            call()
        once = self.span(lambda: [call() for call in calls]) / len(calls)
        self.count = max(len(calls), min(1000, round(SECONDS / max(once, 1e-6))))
        self.calls = [calls[i % len(calls)] for i in range(self.count)]
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                for call in self.calls:
                    call()
        except RuntimeError:
            self.graph = None
            torch.cuda.synchronize()
        self.microseconds()

    @staticmethod
    def span(work):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def microseconds(self):
        run = self.graph.replay if self.graph else lambda: [call() for call in self.calls]
        return self.span(run) / self.count * 1e6


def summary(values):
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3),
            "max": round(max(values), 3), "n": len(values)}


def measure(ours, case):
    """All rounds of one case."""
    name = case["name"]
    first = ours.measure(name)
    if "us" not in first:
        return dict(case, **first)  # A case that reports more than one time, and has no peer; or an error.
    us = [ours.measure(name)["us"] for _ in range(ROUNDS)]
    result = dict(case, ours=summary(us), peers={})
    if torch is None:
        return result
    for peer, calls in PEERS.get(case["kind"], lambda **_: [])(**case):
        if isinstance(calls, str):
            result["peers"][peer] = {"not_measured": calls}
            continue
        try:
            timed = Timed(calls)
            pairs = [(ours.measure(name)["us"], timed.microseconds()) for _ in range(ROUNDS)]
        except Exception as error:
            result["peers"][peer] = {"not_measured": f"{type(error).__name__}: {error}"[:300]}
            continue
        us += [mine for mine, _ in pairs]
        # How many times faster ours was, of each round.
        ratio = summary([theirs / mine for mine, theirs in pairs])
        result["peers"][peer] = dict(us=summary([theirs for _, theirs in pairs]), ratio=ratio, graph=bool(timed.graph))
        del timed
    result["ours"] = summary(us)
    torch.cuda.empty_cache()
    return result


def bandwidth(results):
    """GB/s of the best probe: copies read and write what the case says, the sum only reads it."""
    best = 0
    for case in results:
        if case["kind"] == "copy" and "ours" in case:
            speeds = {"ours": 2 * case["bytes"] / case["ours"]["median"]}
            for peer, figures in case["peers"].items():
                times = 1 if "reads" in peer else 2
                speeds[peer] = times * case["bytes"] / figures["us"]["median"] if "us" in figures else 0
            best = max(best, *speeds.values())
    return best / 1e3


def derive(results):
    """What the times mean: TFLOP/s, GB/s, and the share of the bandwidth that the probes reached."""
    most = bandwidth(results)
    for case in results:
        if "ours" in case:
            us = case["ours"]["median"]
            if "flops" in case:
                case["tflops"] = round(case["flops"] / us / 1e6, 2)
            if "bytes" in case:
                case["gb_per_s"] = round(case["bytes"] * (2 if case["kind"] == "copy" else 1) / us / 1e3, 1)
        speed = case.get("gb_per_s")
        if speed and most:
            case["share_of_bandwidth"] = round((speed["median"] if isinstance(speed, dict) else speed) / most, 3)
    return round(most, 1)


def stop(*_):
    raise SystemExit("stopped before the end")


def main():
    signal.signal(signal.SIGTERM, stop)  # The time is over: what there is, is printed.
    ours = Ours(sys.argv[1])
    prefixes = tuple(sys.argv[2:]) or ("",)
    results = []
    try:
        for case in ours.cases:
            if case["name"].startswith(prefixes):
                results.append(measure(ours, case))
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    finally:
        peers = {"torch": torch.__version__ if torch else why_no_torch,
                 "flashinfer": flashinfer.__version__ if flashinfer else why_no_flashinfer}
        gb_per_s = derive(results)
        print(json.dumps({"peers": peers, "bandwidth_gb_per_s": gb_per_s, "cases": results}, indent=1))
    wrong = [case["name"] for case in results if "error" in case]
    if wrong:
        raise SystemExit("not measured: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
