"""openai-python against a running server: python run.py --base-url http://127.0.0.1:8080 [--api-key KEY]

Checks what the library makes of our answers: whole and streamed, chat and text, log-probabilities, usage
chunks, token-id prompts, forms of the output (checked with the package jsonschema), beam search, and the
exception class of every error. Needs a model with a chat template. With
--api-key it also checks that a wrong key raises AuthenticationError.
"""

import argparse
import concurrent.futures
import json
import re
import sys
import traceback

import jsonschema
import openai
import pydantic

CHATS = [{"role": "user", "content": "Say hello."}]
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def raises(kind, call, param=None, code=None):
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{type(error)} is not {kind}"
        assert error.request_id, "no x-request-id"
        assert param is None or error.param == param, f"param {error.param!r} is not {param!r}"
        assert code is None or error.code == code, f"code {error.code!r} is not {code!r}"
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


@test
def models_are_listed_and_found(client, model):
    listed = client.models.list().data
    assert model in [entry.id for entry in listed]
    assert client.models.retrieve(model).id == model
    raises(openai.NotFoundError, lambda: client.models.retrieve("no/such model"), code="model_not_found")


@test
def chat_whole(client, model):
    answer = client.chat.completions.create(model=model, messages=CHATS, max_tokens=8, temperature=0)
    assert answer.object == "chat.completion"
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


@test
def chat_streamed_equals_whole(client, model):
    asked = dict(model=model, messages=CHATS, max_completion_tokens=16, temperature=0)
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])
    finished = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert finished == [whole.choices[0].finish_reason]


@test
def chat_content_parts_are_joined(client, model):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
    asked = dict(model=model, max_tokens=8, temperature=0)
    one = client.chat.completions.create(messages=CHATS, **asked)
    two = client.chat.completions.create(messages=parts, **asked)
    assert one.choices[0].message.content == two.choices[0].message.content
    assert one.usage.prompt_tokens == two.usage.prompt_tokens


@test
def chat_logprobs(client, model):
    answer = client.chat.completions.create(
        model=model, messages=CHATS, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        ranked = [other.logprob for other in token.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        assert abs(ranked[0] - token.logprob) < 1e-4, "greedy is not the likeliest"


@test
def several_choices_with_a_seed_repeat(client, model):
    asked = dict(model=model, messages=CHATS, max_tokens=12, temperature=1.0, n=3, seed=11)
    first = client.chat.completions.create(**asked)
    again = client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1, "three branches drew the same text"


@test
def text_completion_echo_and_prompt_logprobs(client, model):
    answer = client.completions.create(
        model=model, prompt="The sky is blue because", max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1)
    choice = answer.choices[0]
    assert choice.text.startswith("The sky is blue because")
    assert len(choice.logprobs.tokens) == answer.usage.total_tokens
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    again = client.completions.create(
        model=model, prompt="The sky is blue because", max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1)
    for one, two in zip(choice.logprobs.token_logprobs[1:], again.choices[0].logprobs.token_logprobs[1:]):
        assert abs(one - two) < 1e-3, "a cached prefix changed the scores"


@test
def token_id_prompts_in_a_batch(client, model):
    ids = client.post("/../tokenize", body={"model": model, "prompt": "Hello there"}, cast_to=object)["tokens"]
    text = client.completions.create(model=model, prompt="Hello there", max_tokens=4, temperature=0)
    batch = client.completions.create(
        model=model, prompt=[ids, ids], max_tokens=4, temperature=0, extra_body={"return_token_ids": True})
    assert [choice.index for choice in batch.choices] == [0, 1]
    for choice in batch.choices:
        assert choice.text == text.choices[0].text
        assert len(choice.token_ids) <= 4
    assert batch.usage.prompt_tokens == 2 * len(ids)


@test
def text_completion_streams(client, model):
    chunks = list(client.completions.create(
        model=model, prompt=["One, two,", "A, B,"], max_tokens=6, temperature=0, stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True}))
    assert all(chunk.usage is not None for chunk in chunks)
    for index in (0, 1):
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert sum(choice.finish_reason is not None for choice in own) == 1


@test
def stop_strings_end_a_choice(client, model):
    asked = dict(model=model, prompt="1 2 3 4 5", max_tokens=24, temperature=0)
    text = client.completions.create(**asked).choices[0].text
    stop = text[3:5]
    if len(stop) < 2:
        return
    answer = client.completions.create(**asked, stop=[stop]).choices[0]
    assert answer.text == text[:text.index(stop)] and answer.finish_reason == "stop"


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "languages": {"type": "array", "items": {"$ref": "#/$defs/language"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "languages"],
    "additionalProperties": False,
    "$defs": {"language": {"enum": ["English", "French", "German"]}},
}


def asking_for_a_person(**fields):
    schema = {"name": "person", "schema": PERSON, "strict": True}
    return dict(messages=[{"role": "user", "content": "Invent a person."}], max_tokens=120,
                response_format={"type": "json_schema", "json_schema": schema}, **fields)


@test
def a_schema_holds_for_every_choice(client, model):
    answer = client.chat.completions.create(**asking_for_a_person(model=model, n=4, seed=3, temperature=1.2))
    for choice in answer.choices:
        assert choice.finish_reason == "stop", choice
        jsonschema.validate(json.loads(choice.message.content), PERSON)
    assert len({choice.message.content for choice in answer.choices}) > 1, "all the same"


@test
def a_schema_holds_when_streamed(client, model):
    asked = asking_for_a_person(model=model, temperature=0)
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = client.chat.completions.create(**asked, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole
    jsonschema.validate(json.loads(text), PERSON)


@test
def a_class_is_parsed(client, model):
    class City(pydantic.BaseModel):
        name: str
        inhabitants: int

    answer = client.chat.completions.parse(
        model=model, messages=[{"role": "user", "content": "Name a city."}], response_format=City,
        max_tokens=60, temperature=0)
    assert isinstance(answer.choices[0].message.parsed, City), answer


@test
def other_forms_of_the_output_hold(client, model):
    def text(**form):
        answer = client.chat.completions.create(
            model=model, messages=CHATS, max_tokens=40, temperature=1, seed=5, extra_body=form)
        return answer.choices[0].message.content
    assert text(structured_outputs={"choice": ["red", "green"]}) in ("red", "green")
    assert text(guided_choice=["one", "two"]) in ("one", "two")
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}", text(guided_regex="[0-9]{4}-[0-9]{2}"))
    assert re.fullmatch(r"(ab){2,3}", text(structured_outputs={"regex": "(ab){2,3}"}))


@test
def beams_come_best_first(client, model):
    asked = dict(model=model, prompt="The capital of France is", max_tokens=8, temperature=0, logprobs=0)
    greedy = client.completions.create(**asked).choices[0]
    beams = client.completions.create(**asked, n=2, best_of=4, extra_body={"use_beam_search": True}).choices
    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
    assert len(beams) == 2 and beams[0].text != beams[1].text
    assert mean(beams[0]) >= mean(beams[1])
    assert mean(beams[0]) >= mean(greedy) - 1e-4, "the best of four beams is worse than greedy"


@test
def leaving_a_stream_early_is_fine(client, model):
    with client.chat.completions.create(
            model=model, messages=CHATS, max_tokens=200, stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
    chat_whole(client, model)


@test
def many_at_once(client, model):
    def one(i):
        return client.completions.create(model=model, prompt=f"Number {i}:", max_tokens=4, temperature=0)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(answer.choices[0].text is not None for answer in pool.map(one, range(16)))


@test
def bad_requests_name_the_field(client, model):
    def chat(**fields):
        return lambda: client.chat.completions.create(**{"model": model, "messages": CHATS, **fields})
    cases = [
        (chat(max_tokens=-1), "max_tokens"), (chat(temperature=3), "temperature"), (chat(n=10**9), "n"),
        (chat(top_logprobs=21, logprobs=True), "top_logprobs"), (chat(messages=[]), "messages"),
        (chat(stop=[""]), "stop"), (chat(logit_bias={"-5": 1}), "logit_bias"),
        (chat(response_format={"type": "xml"}), "response_format"),
        (chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}),
         "response_format"),
        (chat(extra_body={"guided_regex": "a("}), "response_format"),
        (chat(tools=[{"type": "function", "function": {"name": "f"}}]), "tools"),
        (chat(extra_body={"policy": {"sampler": "x"}}), "policy.sampler"),
    ]
    for call, param in cases:
        raises(openai.BadRequestError, call, param=param)
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]
    raises(openai.BadRequestError, chat(messages=image))
    raises(openai.BadRequestError, lambda: client.completions.create(model=model, prompt=""), param="prompt")
    long = "word " * 200_000
    raises(openai.BadRequestError, lambda: client.completions.create(model=model, prompt=long),
           code="context_length_exceeded")


@test
def an_unknown_model_is_not_found(client, model):
    raises(openai.NotFoundError,
           lambda: client.chat.completions.create(model="nobody", messages=CHATS), param="model", code="model_not_found")


def wrong_key(base_url):
    client = openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: client.models.list(), code="invalid_api_key")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--base-url", required=True, help="without /v1")
    arguments.add_argument("--api-key")
    options = arguments.parse_args()
    base_url = options.base_url.rstrip("/") + "/v1"
    client = openai.OpenAI(base_url=base_url, api_key=options.api_key or "none", max_retries=0, timeout=120)
    model = client.models.list().data[0].id
    failed = 0
    for function in TESTS:
        try:
            function(client, model)
            print(f"ok      {function.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED  {function.__name__}")
            traceback.print_exc()
    if options.api_key:
        wrong_key(base_url)
    print(f"openai-python {openai.__version__}: {len(TESTS) - failed} of {len(TESTS)} passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
