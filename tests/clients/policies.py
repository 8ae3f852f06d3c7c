"""The policies of plugins/ through the public interface, on a real model: python policies.py --base-url URL

The server must have been started with all samplers of plugins/ under their own names, `budget` enforcing.
What each is checked for is what it promises in its first lines.
"""

import argparse
import math
import re
import sys
import traceback

import openai

PROMPT = "Once upon a time there was a miller who"
TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Model:
    def __init__(self, base_url):
        self.client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=120)
        self.name = self.client.models.list().data[0].id

    def choices(self, sampler=None, args=None, branches=None, form=None, **fields):
        policy = {"sampler": sampler, "args": args or {}, "branches": branches}
        body = {"return_token_ids": True, "ignore_eos": True}
        if form:
            body["structured_outputs"] = form
        if sampler:
            body["policy"] = {key: value for key, value in policy.items() if value is not None}
        asked = {"prompt": PROMPT, "max_tokens": 40, "seed": 7, "logprobs": 0, **fields}
        return self.client.completions.create(model=self.name, extra_body=body, **asked).choices

    def one(self, *args, **fields):
        return self.choices(*args, **fields)[0]


def bits(choice):
    """Mean surprise per token."""
    return -sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs) / math.log(2)


@test
def standard_equals_the_parameters(model):
    for fields in (dict(temperature=0.7, top_p=0.8), dict(temperature=0), dict(temperature=1.3)):
        plain = model.one(**fields)
        assert model.one("standard", fields).token_ids == plain.token_ids, fields


@test
def mirostat_holds_its_target(model):
    def mean(tau):
        texts = [model.one("mirostat-v2", {"tau": tau}, max_tokens=120, seed=seed) for seed in range(1, 6)]
        return sum(map(bits, texts)) / len(texts)
    low, high = mean(1.5), mean(4)
    assert 1.2 < low < 2.1 and 3.2 < high < 4.5, (low, high)


@test
def dry_ends_repetition(model):
    def repeated(multiplier):
        args = {"multiplier": multiplier, "allowed_length": 2, "sequence_breakers": []}
        ids = model.one("dry", args, prompt="1 2 3 1 2 3 1 2 3", max_tokens=120, temperature=0).token_ids
        return len(ids) - 3 - len({tuple(ids[i:i + 4]) for i in range(len(ids) - 3)})
    without, with_dry = repeated(0), repeated(2)
    assert without > 40 and with_dry < without / 4, (without, with_dry)


@test
def typical_and_xtc_change_the_choice_and_repeat(model):
    plain = model.one(temperature=1).token_ids
    for sampler, args in (("typical", {"typical_p": 0.2}), ("xtc", {"probability": 1, "threshold": 0.05})):
        first, again = model.one(sampler, args), model.one(sampler, args)
        assert first.token_ids == again.token_ids != plain, sampler


@test
def a_watermark_changes_the_text_and_repeats(model):
    marked, again = model.one("watermark"), model.one("watermark")
    assert marked.token_ids == again.token_ids != model.one(temperature=1).token_ids


@test
def beams_beat_greedy(model):
    args = {"width": 4, "length_penalty": 1}
    best = model.one("beam-search", args, branches=4, max_tokens=12)
    assert -bits(best) >= -bits(model.one(temperature=0, max_tokens=12)) - 1e-4


@test
def best_of_n_is_no_worse_than_its_first(model):
    choices = model.choices("best-of-n", {"best_of": 6, "every": 8}, branches=6, n=1, max_tokens=32)
    assert len(choices) == 1 and len(choices[0].token_ids) == 32


@test
def a_budget_ends_the_text_and_bans_tokens(model):
    said = model.one(temperature=0).token_ids[:2]
    choice = model.one("budget", {"max_output": 9, "forbid": said}, temperature=0)
    assert len(choice.token_ids) == 9 and not set(said) & set(choice.token_ids), choice
    assert choice.finish_reason == "stop"


@test
def epsilon_in_c_draws_only_what_is_likely(model):
    assert model.one("epsilon-c", {"epsilon": 1}).token_ids == model.one(temperature=0).token_ids
    drawn = model.one("epsilon-c", {"epsilon": 0.1}, max_tokens=80, logprobs=1).logprobs
    likeliest = [max(top.values()) for top in drawn.top_logprobs]
    assert all(own >= math.log(0.1) - 1e-4 or own >= top - 1e-4
               for own, top in zip(drawn.token_logprobs, likeliest)), drawn
    assert any(own < top - 1e-4 for own, top in zip(drawn.token_logprobs, likeliest)), "greedy"


@test
def policies_keep_to_the_form_of_the_output(model):
    form = {"regex": "( [a-z]{3,9}){5}\\."}
    asked = dict(form=form, max_tokens=80)
    for sampler in ("standard", "mirostat-v2", "dry", "typical", "xtc", "watermark"):
        args = {"temperature": 1.5} if sampler == "standard" else {}
        texts = [model.one(sampler, args, seed=seed, **asked).text for seed in (1, 2, 3)]
        assert all(re.fullmatch(form["regex"], text) for text in texts) and len(set(texts)) > 1, (sampler, texts)
    greedy = model.one(temperature=0, **asked)
    assert model.one("standard", {"temperature": 0}, **asked).token_ids == greedy.token_ids
    banned = model.one("budget", {"forbid": greedy.token_ids[:1]}, temperature=0, **asked)
    assert re.fullmatch(form["regex"], banned.text) and banned.token_ids[0] != greedy.token_ids[0], banned
    beams = model.choices("beam-search", {"width": 3}, branches=3, n=3, **asked)
    assert all(re.fullmatch(form["regex"], beam.text) for beam in beams), beams


@test
def bad_arguments_are_named(model):
    for sampler, args in (("mirostat-v2", {"tau": 0}), ("dry", {"base": 0}), ("budget", {"forbid": [10**9]}),
                          ("typical", {"typical_p": "x"}), ("standard", {"top_p": 7})):
        key = next(iter(args))
        try:
            model.one(sampler, args)
        except openai.BadRequestError as error:
            assert key in error.message and error.param == "policy", error
        else:
            raise AssertionError(f"{sampler} took {args}")


@test
def policies_share_a_batch(model):
    import concurrent.futures
    asked = [("standard", {"temperature": 0.5}), ("mirostat-v2", {}), ("dry", {}), ("xtc", {}), (None, None)] * 4
    alone = [model.one(*one).token_ids for one in asked[:5]]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        together = [choice.token_ids for choice in pool.map(lambda one: model.one(*one), asked)]
    assert together == alone * 4, "a policy's text depends on its batch"


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--base-url", required=True, help="without /v1")
    arguments.add_argument("--only", help="the name of one test")
    arguments.add_argument("--without", help="the name of one test that cannot run here")
    options = arguments.parse_args()
    model = Model(options.base_url.rstrip("/") + "/v1")
    tests = [function for function in TESTS if options.only in (None, function.__name__)]
    tests = [function for function in tests if function.__name__ != options.without]
    assert tests, f"there is no test {options.only}"
    failed = 0
    for function in tests:
        try:
            function(model)
            print(f"ok      {function.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}")
            traceback.print_exc()
    print(f"policies: {len(tests) - failed} of {len(tests)} passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
