"""The model that ships: its answers are right, and the same over any number of peers."""

from __future__ import annotations

import pytest

import swarm
from swarm import demo

SPLITS = (["0:12"], ["0:7", "7:12"], ["0:4", "4:8", "8:12"], ["0:2", "2:5", "5:8", "8:10", "10:12"])


def answers(layers: list[str], dtype: str) -> tuple[list[str], str]:
    """The answer to every checkable prompt, and the beginning of a story."""
    with swarm.LocalSwarm(swarm.demo_model(), layers, dtype=dtype) as local:
        with swarm.Client(swarm.demo_model(), initial_peers=local.initial_peers) as client:
            said = [client.generate(prompt.text, max_new_tokens=120).strip() for prompt in demo.PROMPTS]
            return said, client.generate(demo.STORY, max_new_tokens=120)


@pytest.fixture(scope="module")
def in_one_process():
    """What transformers says of the same prompts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(swarm.demo_model())
    model = AutoModelForCausalLM.from_pretrained(swarm.demo_model(), dtype=torch.float32)

    def say(text: str) -> str:
        ids = tokenizer(text, return_tensors="pt")
        return tokenizer.decode(model.generate(**ids, max_new_tokens=120, do_sample=False)[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)

    return [say(prompt.text).strip() for prompt in demo.PROMPTS], say(demo.STORY)


@pytest.mark.parametrize("layers", [pytest.param(layers, id=f"{len(layers)} peers", marks=() if len(layers) == 3 else pytest.mark.slow) for layers in SPLITS])
def test_float32_says_the_same_over_any_number_of_peers(layers, in_one_process):
    said, story = answers(layers, "float32")
    assert said == [prompt.answer for prompt in demo.PROMPTS]
    assert (said, story) == in_one_process


def test_bfloat16_answers_the_checkable_prompts():
    said, _ = answers(["0:4", "4:8", "8:12"], "bfloat16")
    assert said == [prompt.answer for prompt in demo.PROMPTS]


def test_the_draft_model_shares_the_tokenizer():
    assert (demo.path() / "tokenizer.json").read_bytes() == (demo.draft_path() / "tokenizer.json").read_bytes()


def test_both_models_are_small_enough_to_ship():
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in (demo.path(), demo.draft_path())]
    assert sizes[0] < 10 * 2**20 and sizes[1] < 1.5 * 2**20


def test_a_chat_is_one_conversation():
    text = {"question": "What is the capital of France?", "answer": "Paris", "next": "Sort these numbers: 5 3 9 1", "sorted": "1 3 5 9"}
    with swarm.LocalSwarm(swarm.demo_model(), ["0:6", "6:12"], dtype="float32") as local:
        with swarm.Client(swarm.demo_model(), initial_peers=local.initial_peers) as client, client.session() as session:
            assert session.generate(text["question"], chat=True).strip() == text["answer"]
            assert session.generate(text["next"], chat=True).strip() == text["sorted"]
            tokens = session.tokens
    from transformers import AutoTokenizer

    said = AutoTokenizer.from_pretrained(swarm.demo_model()).decode(tokens)
    assert said == "Q: {question}\nA: {answer}<|eos|>Q: {next}\nA: {sorted}<|eos|>".format(**text)
