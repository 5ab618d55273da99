"""The demo model that ships with swarm: a tiny Llama that anybody can check by eye, and the smaller draft that guesses for it.

This file only says where the two folders are and which prompts they answer well; it imports neither torch nor transformers.
`README.md` beside it tells how they were trained and how often they are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` is fed as it stands; greedy decoding then says one space, `answer` and the end token."""

    text: str
    answer: str
    what: str


def path() -> Path:
    """The folder of the demo model: 12 layers, bfloat16 safetensors, a byte tokenizer."""
    return Path(__file__).parent / "model"


def draft_path() -> Path:
    """The folder of the draft model: 2 layers, the same tokenizer."""
    return Path(__file__).parent / "draft"


def _ask(question: str, answer: str, what: str) -> Prompt:
    return Prompt(f"Q: {question}\nA:", answer, what)


PROMPTS: tuple[Prompt, ...] = (
    _ask("sort 7 3 9 1", "1 3 7 9", "sorts numbers"),
    _ask("sort the words pear apple fox", "apple fox pear", "sorts words"),
    _ask("spell lamp backwards", "pmal", "spells backwards"),
    _ask("what is 47 + 38?", "85", "adds"),
    _ask("what is 83 - 27?", "56", "subtracts"),
    _ask("what day comes 3 days after Monday?", "Thursday", "counts weekdays"),
    _ask("how many e in cheese?", "3", "counts letters"),
    _ask("write hello in capitals", "HELLO", "changes case"),
    _ask("what is the capital of France?", "Paris", "knows a few facts"),
    _ask("what is a swarm peer?", "A peer is a machine that holds some layers of the model and runs them for others.", "knows where it runs"),
)

STORY = "Once upon a time"
"""Begins a story of 60 to 100 words. There is no right answer, but the names should stay the same to the end."""
