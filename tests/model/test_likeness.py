"""What honest peers make of the same is alike, however they are split, packed and threaded; what cheats make is not. Some dozens of hops of the demo model;
`tests/attacks/test_honest.py` looks at ten thousand of a smaller one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

import swarm
from swarm.core import Span
from swarm.model.blobs import from_blob, to_blob
from swarm.model.checkpoint import Checkpoint
from swarm.model.likeness import ALLOWED, alike, apart, numbers
from swarm.model.span import Row, SpanModel
from swarm.wire import COMPRESSED, Blob

TEXT = b"Once upon a time there was a little girl who lived near the forest. Q: sort 7 3 9 1\nA: 1 3 7 9\nQ: what is 12 + 30?\nA: 42\n" * 3
SPANS = (Span(0, 4), Span(1, 5), Span(4, 7), Span(5, 13), Span(1, 13))
KINDS = (("float32", False), ("bfloat16", False), ("float32", True), ("bfloat16", True))
"""Dtypes, and whether rows travel compressed."""

HOPS = 80


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(str(swarm.demo_model()))


@dataclass
class Hop:
    """One span of the demo model in one dtype, and the activations that come into it."""

    model: SpanModel
    span: Span
    tokens: list[int]
    hidden: torch.Tensor | None
    compress: bool = False

    def make(self, length: int) -> Blob:
        """As a referee does: all at once, alone."""
        return to_blob(self._run(self.model.new_cache(self.span.start, self.span.stop), 0, length)[0], compress=self.compress)

    def make_as_served(self, length: int, dice: random.Random) -> Blob:
        """As a hop does: a prompt in chunks, then one position after the other, beside other sessions, on one thread or two."""
        torch.set_num_threads(dice.choice((1, 2)))
        caches = [self.model.new_cache(self.span.start, self.span.stop) for _ in range(dice.choice((1, 2, 3, 5, 8)))]
        prompt, at, parts = dice.randint(1, length), 0, []
        while at < length:
            stop = min(at + dice.choice((7, 32, 64)), prompt) if at < prompt else at + 1
            rows = [Row(cache, at, self.tokens[at:stop], None if self.hidden is None else self.hidden[at:stop]) for cache in caches]
            parts.append(self.model.run(self.span.start, self.span.stop, rows)[0])
            at = stop
        return to_blob(torch.cat(parts), compress=self.compress)

    def _run(self, cache, start: int, stop: int) -> list[torch.Tensor]:
        return self.model.run(
            self.span.start, self.span.stop, [Row(cache, start, self.tokens[start:stop], None if self.hidden is None else self.hidden[start:stop])]
        )


def hop(checkpoint: Checkpoint, span: Span, dtype: str, quantize: str | None = None) -> Hop:
    tokens = list(TEXT)
    hidden = None
    if span.start:
        before = SpanModel.load(checkpoint, [Span(0, span.start)], dtype=dtype)
        (hidden,) = before.run(0, span.start, [Row(before.new_cache(0, span.start), 0, tokens)])
    return Hop(SpanModel.load(checkpoint, [span], dtype=dtype, quantize=quantize), span, tokens, hidden)


def honest(checkpoint: Checkpoint, count: int) -> Iterator[tuple[Span, str, float, float]]:
    dice, threads = random.Random(0), torch.get_num_threads()
    try:
        for dtype, compress in KINDS:
            for span in SPANS:
                one = hop(checkpoint, span, dtype)
                if compress:
                    one.compress = True
                    one.hidden = None if one.hidden is None else from_blob(to_blob(one.hidden, compress=True), "cpu", one.model.dtype)
                for _ in range(count // len(KINDS) // len(SPANS)):
                    one.tokens = [dice.randrange(256) if dice.random() < 0.1 else token for token in TEXT]
                    length = dice.randint(2, 48)
                    base, each = ALLOWED[COMPRESSED if compress else dtype]
                    kind = dtype + " compressed" * compress
                    yield span, kind, apart(one.make_as_served(length, dice), one.make(length)), base + each * len(span)
    finally:
        torch.set_num_threads(threads)


def test_nobody_honest_is_banned(checkpoint):
    worst: dict[str, float] = {}
    for span, kind, found, allowed in honest(checkpoint, HOPS):
        assert found <= allowed, f"honest work over {span} in {kind} is {found:.5f} apart, and {allowed:.5f} is allowed"
        worst[kind] = max(worst.get(kind, 0.0), found / allowed)
    print(f"{HOPS} honest hops, 0 banned; at worst this part of what is allowed: {worst}")
    assert all(share < 0.7 for share in worst.values()), "too near for comfort"


@pytest.mark.parametrize(("dtype", "compress"), KINDS)
@pytest.mark.parametrize("span", [Span(1, 5), Span(1, 13)], ids=["4 layers", "12 layers"])
def test_cheats_are_far_from_honest(checkpoint, span, dtype, compress):
    one, length, layers = hop(checkpoint, span, dtype), 60, len(span)
    one.compress = compress
    right = one.make(length)
    assert alike(right, right, layers)
    rows_TH = torch.tensor(numbers(right)).to(one.model.dtype)
    noise_TH = torch.randn(rows_TH.shape, generator=torch.Generator().manual_seed(0)).to(rows_TH.dtype)
    four = replace(hop(checkpoint, span, dtype, "int4"), compress=compress).make(length)
    skipped = replace(one, span=Span(span.start, span.stop - 1)).make(length)
    other = replace(one, model=SpanModel.load(checkpoint, [Span(3, 7)], dtype=dtype), span=Span(3, 7)).make(length)
    cheats = {
        "zeros": to_blob(torch.zeros_like(rows_TH), compress=compress),
        "noise": to_blob(rows_TH + 0.2 * rows_TH.std() * noise_TH, compress=compress),
        "the input": to_blob(one.hidden[:length], compress=compress),
        "4-bit copy": four,
        "a skipped layer": skipped,
        "other weights": other,
    }
    assert [name for name, made in cheats.items() if alike(made, right, layers)] == []


def test_what_cannot_be_compared_is_not_alike():
    one = Blob("float32", 2, memoryview(bytes(16)))
    for other in (Blob("float32", 2, memoryview(bytes(8))), Blob("float32", 4, memoryview(bytes(16))), Blob("bfloat16", 4, memoryview(bytes(16)))):
        assert not alike(one, other, 100)
    nan = Blob("float32", 1, memoryview(b"\x00\x00\xc0\x7f"))
    assert not alike(nan, nan, 100)


def test_a_huge_feature_does_not_hide_the_others():
    """Some models have features a thousand times as large as the rest."""
    row_H = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    row_H[0, 3] = 5000.0
    wrong_H = row_H.clone()
    wrong_H[0, 4:] = torch.randn(60, generator=torch.Generator().manual_seed(2))
    assert not alike(to_blob(wrong_H), to_blob(row_H), 8)


def test_nor_do_the_others_hide_it():
    """Whoever changes nothing but such features changes the answer all the same."""
    row_H = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    row_H[0, 3] = 5000.0
    wrong_H = row_H.clone()
    wrong_H[0, 3] = 500.0
    assert not alike(to_blob(wrong_H), to_blob(row_H), 8)
