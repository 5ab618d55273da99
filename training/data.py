"""From questions to token rows: the prompt format, the held-out split and the packing. Pure and seeded; knows nothing of models.

The format is what a person would type, `Q: sort 7 3 9 1` on one line and `A:` on the next; the answer follows after one space and
ends with the end token. A token is a byte: `id = byte + 2`, after `<|eos|>` (0) and `<|pad|>` (1). Nothing is put in front.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from . import stories
from .tasks import OPEN_TASKS, TASKS, Grammar, Question, tell_story

EOS, PAD, BYTE_OFFSET, VOCAB_SIZE = 0, 1, 2, 258

HELD_OUT_SHARE = 10
"""Every tenth content, by hash, is never trained on and makes the test set. Tasks learnt by heart have no content and hold nothing out."""

STORY_WEIGHT = 0.7
"""Loss weight of a token in open text. Much of a story's loss is the free choice of the next name, so it counts for less than an answer;
at 0.2, tried first, the sums were learnt and the stories fell apart."""
NAME_WEIGHT = 2.0
"""The same for a name that was said before: there is a right answer, and a story with a third name in it is a bad story."""


@dataclass(frozen=True, slots=True)
class Example:
    task: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Document:
    """Tokens of one text and, aligned with them, what each should predict and how much that counts."""

    task: str
    tokens: list[int]
    targets: list[int]
    weights: list[float]


def encode(text: str) -> list[int]:
    return [byte + BYTE_OFFSET for byte in text.encode()]


def prompt_for(ask: str) -> str:
    return f"Q: {ask}\nA:"


def held_out(task: str, question: Question) -> bool:
    """Same answer on every machine and in every run: it depends on the question alone."""
    return question.content is not None and zlib.crc32(f"{task}|{question.content}".encode()) % HELD_OUT_SHARE == 0


def dress(rng: Random, task: str, ask: str) -> str:
    """Type the question the way people do: sometimes a capital, sometimes a question mark."""
    if rng.random() < 0.4:
        ask = ask[0].upper() + ask[1:]
    if task not in ("repeat", "capitals") and rng.random() < 0.35:
        asks = ask.lower().startswith(("what", "which", "how", "is ", "who"))
        ask += "?" if asks else rng.choice((".", ""))
    return ask


def draw(rng: Random, task: str, grammar: Grammar, *, test: bool) -> Example:
    """Draw from the training side or the test side of the split. What is open or learnt by heart is the same on both sides."""
    while True:
        question = grammar(rng)
        if task in OPEN_TASKS or question.content is None or held_out(task, question) == test:
            return Example(task, prompt_for(dress(rng, task, question.ask)), question.answer)


def open_weights(text: str) -> list[float]:
    """For each byte of an open text, how much it counts."""
    weights = [STORY_WEIGHT] * len(text.encode())
    for place in stories.mentions(text):
        weights[place] = [NAME_WEIGHT] * (place.stop - place.start)
    return weights


def document(*examples: Example, chained_by: list[int] | None = None) -> Document:
    """One question, or a conversation of several. Only answers are learnt; after an answer the model must always say `<|eos|>`.

    `chained_by` gives the token that stands behind each answer in the text, so that a conversation goes on the same
    whether the turns were joined by the end token (a chat template) or by a line break (somebody typing).
    """
    tokens: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for turn, example in enumerate(examples):
        prompt, answer = encode(example.prompt), encode(" " + example.answer)
        counts = [*open_weights(" " + example.answer), STORY_WEIGHT] if example.task in OPEN_TASKS else [1.0] * (len(answer) + 1)
        tokens += prompt + answer + [chained_by[turn] if chained_by else EOS]
        targets += [*(prompt + answer + [EOS])[1:], PAD]
        weights += [0.0] * (len(prompt) - 1) + counts + [0.0]
    return Document(examples[0].task if len(examples) == 1 else "conversation", tokens, targets, weights)


def story_document(rng: Random) -> Document:
    text = stories.story(rng)
    tokens = [*encode(text), EOS]
    return Document("story", tokens, [*tokens[1:], PAD], [*open_weights(text)[1:], STORY_WEIGHT, 0.0])


@dataclass
class Row:
    """A fixed-size row that several documents share; `owner` keeps them from seeing each other."""

    size: int
    documents: list[Document] = field(default_factory=list)
    used: int = 0

    def fits(self, document: Document) -> bool:
        return self.used + len(document.tokens) <= self.size

    def add(self, document: Document) -> None:
        self.documents.append(document)
        self.used += len(document.tokens)

    def columns(self) -> tuple[list[int], list[int], list[float], list[int]]:
        tokens, targets, weights, owner = [], [], [], []
        for i, document in enumerate(self.documents):
            tokens += document.tokens
            targets += document.targets
            weights += document.weights
            owner += [i] * len(document.tokens)
        rest = self.size - self.used
        return tokens + [PAD] * rest, targets + [PAD] * rest, weights + [0.0] * rest, owner + [len(self.documents)] * rest


class Mixture:
    """An endless, seeded stream of documents whose shares follow what the model still gets wrong."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.names = list(TASKS)
        self.accuracy = dict.fromkeys(self.names, 0.0)
        self._waiting: list[Document] = []

    def learn(self, task: str, right: float) -> None:
        """Move a task's running accuracy towards one more graded answer."""
        if task in self.accuracy and task not in OPEN_TASKS:
            self.accuracy[task] += 0.02 * (right - self.accuracy[task])

    def shares(self) -> list[float]:
        """A task known perfectly keeps a fifth of its base share, enough not to be forgotten."""
        return [TASKS[name][1] * (0.2 + 0.8 * min(1.0, 2 * (1 - self.accuracy[name]))) for name in self.names]

    def example(self) -> Example:
        (name,) = self.rng.choices(self.names, self.shares())
        return draw(self.rng, name, TASKS[name][0], test=False)

    def short(self) -> Document:
        return document(self.example())

    def long(self, size: int) -> Document:
        """A story, a story asked for, or a conversation that fills the row."""
        kind = self.rng.random()
        if kind < 0.6:
            return story_document(self.rng)
        if kind < 0.85:
            return document(draw(self.rng, "tell_story", tell_story, test=False))
        turns: list[Example] = []
        room = self.rng.randint(size // 3, size)
        while room > 60:
            turns.append(self.example())
            room -= len(encode(turns[-1].prompt + turns[-1].answer)) + 2
        newline = encode("\n")[0]
        if room < 0:
            turns.pop()
        return document(*turns, chained_by=[newline if self.rng.random() < 0.4 else EOS for _ in turns])

    def short_rows(self, count: int, size: int) -> list[Row]:
        """First fit: put each document in the first row with room, stop when the rows are as good as full."""
        rows, misses = [Row(size) for _ in range(count)], 0
        queue, self._waiting = self._waiting, []
        while misses < 6:
            one = queue.pop() if queue else self.short()
            row = next((row for row in rows if row.fits(one)), None)
            if row is not None:
                row.add(one)
            else:
                self._waiting.append(one)
                misses += 1
        self._waiting += queue
        return rows

    def long_rows(self, count: int, size: int) -> list[Row]:
        rows = [Row(size) for _ in range(count)]
        for row in rows:
            while True:
                one = self.long(size - row.used)
                if not row.fits(one):
                    break
                row.add(one)
                if size - row.used < 200:
                    break
            while row.fits(short := self.short()):
                row.add(short)
        return rows


def test_set(seed: int, per_task: int) -> Iterator[Example]:
    """Distinct examples of every graded task, held out where the task has content to hold out; fewer where fewer exist."""
    for name, (grammar, _) in TASKS.items():
        if name in OPEN_TASKS:
            continue
        rng, seen = Random(f"{seed}/{name}"), set()
        for _ in range(per_task * 3):
            example = draw(rng, name, grammar, test=True)
            if example.prompt not in seen and len(seen) < per_task:
                seen.add(example.prompt)
                yield example
