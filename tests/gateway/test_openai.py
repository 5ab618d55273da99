"""OpenAI's own client against a gateway process over a swarm of real processes with the demo model: what a user of it, or of LangChain or LiteLLM, meets."""

from __future__ import annotations

import concurrent.futures
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import swarm
from swarm.demo import PROMPTS
from swarm.local import LocalProcess

SORT = PROMPTS[0]
QUESTIONS = PROMPTS[:8]
CACHE = 700
"""Positions of a peer's cache: room for one long answer, but not for two."""


class GatewayProcess:
    def __init__(self, local: swarm.LocalSwarm, path: Path, *arguments: str) -> None:
        peers = [text for address in local.initial_peers for text in ("--initial-peers", address)]
        with path.open("wb") as log:
            self.process = LocalProcess("swarm.cli.gateway", [*peers, "--port", "0", *arguments], log, {})
        self.process.wait_ready(120, path)
        self.url = self.process.facts["url"]
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def local() -> Iterator[swarm.LocalSwarm]:
    with swarm.LocalSwarm(swarm.demo_model(), layers=["0:4", "4:8", "8:12"], dtype="float32", arguments=["--cache-tokens", str(CACHE)]) as local:
        yield local


@pytest.fixture(scope="module")
def gateway(local: swarm.LocalSwarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(local, tmp_path_factory.mktemp("gateway") / "log", "--patience", "2")
    yield gateway
    gateway.process.kill()


def question(prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt.text.removeprefix("Q: ").removesuffix("\nA:")}]


def test_models(gateway):
    assert [model.id for model in gateway.openai.models.list()] == ["demo"]
    assert gateway.openai.models.retrieve("demo").owned_by == "swarm"


def test_answers_are_right_and_counted_plain_and_in_conversation(gateway):
    done = gateway.openai.completions.create(model="demo", prompt=SORT.text, temperature=0)
    assert done.choices[0].text == f" {SORT.answer}" and done.choices[0].finish_reason == "stop"
    assert done.usage is not None and (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(SORT.text), len(SORT.answer) + 1)  # a byte is a token
    chat = gateway.openai.chat.completions.create(model="demo", messages=question(SORT), temperature=0)
    assert chat.choices[0].message.content == f" {SORT.answer}" and chat.usage.completion_tokens == len(SORT.answer) + 1


def test_a_stream_says_the_same_as_the_whole_and_its_route(gateway):
    options = {"model": "demo", "messages": question(PROMPTS[-1]), "temperature": 0}
    whole = gateway.openai.chat.completions.create(**options)
    chunks = list(gateway.openai.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}, extra_body={"show_route": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.choices[0].message.content == f" {PROMPTS[-1].answer}"
    assert chunks[-1].usage == whole.usage and chunks[-2].choices[0].finish_reason == "stop"
    routes = [choice.route for chunk in chunks for choice in chunk.choices if "route" in (choice.model_extra or {})]
    assert [hop["layers"] for hop in routes[-1]["hops"]] == ["0:4", "4:8", "8:12"] and all(hop["measured"] for hop in routes[-1]["hops"])


def test_one_seed_gives_one_answer_and_n_gives_several(gateway):
    ask = {"model": "demo", "prompt": "Once upon a time", "temperature": 1.2, "max_tokens": 24, "n": 3, "seed": 5}
    one, other = gateway.openai.completions.create(**ask), gateway.openai.completions.create(**ask)
    texts = [choice.text for choice in one.choices]
    assert texts == [choice.text for choice in other.choices] and len(set(texts)) == 3
    assert one.usage is not None and one.usage.completion_tokens == 3 * 24 and {choice.finish_reason for choice in one.choices} == {"length"}


def test_stop_and_log_probabilities(gateway):
    done = gateway.openai.completions.create(model="demo", prompt=SORT.text, temperature=0, stop=[" 7"], logprobs=2)
    assert done.choices[0].text == " 1 3" and done.choices[0].finish_reason == "stop"
    said = done.choices[0].logprobs
    assert said is not None and said.tokens is not None and said.top_logprobs is not None and said.token_logprobs is not None
    assert "".join(said.tokens) == " 1 3 7" and all(token in top and len(top) == 2 for token, top in zip(said.tokens, said.top_logprobs, strict=True))
    chat = gateway.openai.chat.completions.create(model="demo", messages=question(SORT), temperature=0, logprobs=True, top_logprobs=2)
    assert chat.choices[0].logprobs is not None and chat.choices[0].logprobs.content is not None
    assert bytes(byte for one in chat.choices[0].logprobs.content for byte in one.bytes or ()).decode() == f" {SORT.answer}"


def test_errors_are_those_that_the_client_knows(gateway):
    with pytest.raises(openai.BadRequestError, match="this gateway has no tools"):
        gateway.openai.chat.completions.create(model="demo", messages=question(SORT), tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.NotFoundError, match="serves demo"):
        gateway.openai.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.openai.completions.create(model="demo", prompt="x" * 5000)
    assert caught.value.code == "context_length_exceeded"


def test_a_client_that_leaves_frees_the_caches_at_once(gateway):
    """The peers have room for one such answer; the next one waits two seconds for room at most."""
    long = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 500, "extra_body": {"ignore_eos": True}}
    for _ in range(3):
        stream = gateway.openai.completions.create(**long, stream=True)
        next(iter(stream))
        stream.close()
    with pytest.raises(openai.APITimeoutError):  # a client that waits for the whole, and no longer
        gateway.openai.with_options(timeout=0.7).completions.create(**long)
    assert gateway.openai.completions.create(**long).choices[0].finish_reason == "length"


def test_peers_without_room_are_429_and_say_when_to_come_again(gateway):
    long = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 600, "extra_body": {"ignore_eos": True}}
    stream = gateway.openai.completions.create(**long, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as caught:
        gateway.openai.completions.create(**long)
    assert int(caught.value.response.headers["retry-after"]) >= 1 and caught.value.code == "overloaded"
    stream.close()


def test_a_peer_is_killed_and_every_answer_comes_all_the_same_and_then_what_is_missing_is_named(local, gateway):
    """Sixteen at a time; halfway the only peer of the middle layers dies, and a new one comes. Then its layers are gone for good."""

    def one(at: int) -> tuple[str, int, str, int]:
        prompt = QUESTIONS[at % len(QUESTIONS)]
        while True:
            try:
                chat = gateway.openai.chat.completions.create(model="demo", messages=question(prompt), temperature=0)
                return chat.choices[0].message.content, chat.usage.completion_tokens, prompt.answer, len(prompt.answer) + 1
            except (
                openai.RateLimitError,
                openai.InternalServerError,
            ) as error:  # told to come again: one peer's caches hold few answers, and layers are missing for a while
                time.sleep(min(float(error.response.headers["retry-after"]), 1.0))

    spare = local.add("4:8")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(one, at) for at in range(64)]
        while sum(answer.done() for answer in answers) < 32:
            time.sleep(0.05)
        local.peers[1].kill()
        for text, tokens, answer, length in (answer.result(120) for answer in answers):
            assert (text, tokens) == (f" {answer}", length)
    spare.kill()
    with pytest.raises(openai.InternalServerError) as caught:
        while True:
            gateway.openai.completions.create(model="demo", prompt=SORT.text)
    error = caught.value.response.json()["error"]
    assert caught.value.status_code == 503 and error["layers"] == "4:8" and "--layers 4:8" in error["message"] and error["memory"] > 0
    status, said = _status(gateway, "/health")
    health = json.loads(said)
    assert status == 503 and health["status"] == "missing layers" and health["missing"] == "4:8"


def _status(gateway: GatewayProcess, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(gateway.url + path, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
