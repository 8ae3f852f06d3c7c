#!/usr/bin/env python3
"""Greedy answers of the CUDA library against those of the CPU backend, over HTTP, many requests at once.

generation.py TOKENMILL BACKEND MODEL [REFERENCES]: prints one JSON object, exits 1 if an answer differs elsewhere than
at a tie closer than 0.125 nat. REFERENCES: a folder of answers by transformers (tests/fixtures/smollm2), where MODEL is
the real SmolLM2; they then take the CPU backend's place.
"""

import json
import random
import re
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TIE = 0.125
TOKENS = 16
TOP = 5
# Of tokens in the prompts: less than a block of the cache, more than one step takes.
LENGTHS = [1, 2, 3, 5, 8, 13, 15, 16, 17, 31, 33, 64, 100, 129, 257, 700]


class Server:
    """`tokenmill serve` on a free port."""

    def __init__(self, tokenmill, backend, model):
        flags = ["--backend", backend, "--port", "0", "--skip-tokenizer-init", "--max-num-batched-tokens", "256",
                 "--max-model-len", "1024", "--served-model-name", "model"]
        self.process = subprocess.Popen([tokenmill, "serve", model, *flags], stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            found = re.search(r"http://\S+", line)
            if found:
                self.url = found.group(0)
                return
        raise SystemExit(f"tokenmill serve --backend {backend} ended with status {self.process.wait()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)

    def answer(self, prompt):
        """Per token: its id, and the log-probabilities of the likeliest."""
        ask = {"model": "model", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logprobs": TOP,
               "ignore_eos": True, "return_token_ids": True}
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(ask).encode(),
                                         {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as reply:
            choice = json.load(reply)["choices"][0]
        tops = [{int(name.split(":")[-1]): value for name, value in top.items()}
                for top in choice["logprobs"]["top_logprobs"]]
        return list(zip(choice["token_ids"], tops))

    def answers(self, prompts):
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self.answer, prompts))


def references(folder):
    """Prompts and answers by transformers."""
    prompts, answers = [], []
    for path in sorted(Path(folder).glob("*.json")):
        stored = json.loads(path.read_text())
        if "steps" not in stored:
            continue
        prompts.append(stored["prompt_ids"])
        answers.append([(step["token"], {token: logit - step["logsumexp"] for token, logit
                                         in zip(step["top_ids"], step["top_logits"])})
                        for step in stored["steps"][:TOKENS]])
    return prompts, answers


def compare(ours, theirs):
    """Tokens that agree before the answers part, the largest difference of a log-probability on the way, and how
    clear the choice was where they part (None: nowhere)."""
    most = 0.0
    for count, ((token, top), (expected, known)) in enumerate(zip(ours, theirs)):
        common = top.keys() & known.keys()
        most = max([most, *(abs(top[id] - known[id]) for id in common)])
        if token != expected:
            return count, most, known[expected] - known.get(token, float("-inf"))
    return len(ours), most, None


def main():
    tokenmill, backend, model, *folder = sys.argv[1:]
    vocab = json.loads((Path(model) / "config.json").read_text())["vocab_size"]
    chance = random.Random(1)
    prompts = [[chance.randrange(vocab) for _ in range(length)] for length in LENGTHS]
    if folder:
        prompts, expected = references(folder[0])
    else:
        with Server(tokenmill, "cpu", model) as cpu:
            expected = cpu.answers(prompts)
    with Server(tokenmill, backend, model) as cuda:
        got = cuda.answers(prompts)
    rows = [compare(*pair) for pair in zip(got, expected)]
    wrong = [(len(prompt), row) for prompt, row in zip(prompts, rows) if row[2] is not None and row[2] >= TIE]
    print(json.dumps({
        "against": "transformers" if folder else "the CPU backend",
        "prompts": len(prompts),
        "tokens": TOKENS * len(prompts),
        "tokens_equal": sum(row[0] for row in rows),
        "parted_at_ties": sum(row[2] is not None and row[2] < TIE for row in rows),
        "parted_elsewhere": [{"prompt_tokens": length, "after": row[0], "nat": row[2]} for length, row in wrong],
        "largest_logprob_difference": round(max(row[1] for row in rows), 4),
    }, indent=1).replace("Infinity", "null"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
