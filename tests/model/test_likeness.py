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
from swarm.machines.redone import CARRIED, MOST, can_be
from swarm.model.blobs import from_blob, to_blob
from swarm.model.checkpoint import Checkpoint
from swarm.model.likeness import ALLOWED, apart, nudged, numbers, share
from swarm.model.span import Row, SpanModel
from swarm.wire import COMPRESSED, Blob
from tests.swarm.models import save_llama

TEXT = b"Once upon a time there was a little girl who lived near the forest. Q: sort 7 3 9 1\nA: 1 3 7 9\nQ: what is 12 + 30?\nA: 42\n" * 3
SPANS = (Span(0, 4), Span(1, 5), Span(4, 7), Span(5, 13), Span(1, 13))
KINDS = (("float32", False), ("bfloat16", False), ("float32", True), ("bfloat16", True))
"""Dtypes, and whether rows travel compressed."""

HOPS = 80


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(str(swarm.demo_model()))


def alike(one: Blob, other: Blob, layers: int) -> bool:
    return share(one, other, layers) <= 1


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
    moved_TH = from_blob(nudged(to_blob(one.hidden[:length]), dtype, random.Random(1).randbytes), "cpu", one.model.dtype)
    carried = share(replace(one, hidden=moved_TH).make(length), right, layers)
    assert [name for name, made in cheats.items() if can_be(share(made, right, layers), carried) is not False] == []
    assert CARRIED * carried < 1.2, "a trained model is calm: hardly more is allowed than usual"


SPREADS = (0.02, 0.1, 0.2, 0.3)


@pytest.fixture(scope="module", params=SPREADS)
def loud(request, tmp_path_factory) -> tuple[float, Checkpoint]:
    """Random models: the wider their weights spread, the further a rounding is carried."""
    return request.param, Checkpoint.open(str(save_llama(tmp_path_factory.mktemp("random"), layers=8, spread=request.param)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_loud_models_honest_work_is_told_from_a_cheats_by_how_far_a_rounding_is_carried(loud, dtype):
    """From a spread of 0.2 on, honest work in bfloat16 may be further apart than usual, where torch attends to prompts; in yet louder models there is some of
    which nothing can be told."""
    (spread, checkpoint), span, dice, threads = loud, Span(1, 7), random.Random(1), torch.get_num_threads()
    one, four = hop(checkpoint, span, dtype), hop(checkpoint, span, dtype, "int4")
    other = replace(one, model=SpanModel.load(checkpoint, [Span(3, 9)], dtype=dtype), span=Span(3, 9))
    length, layers, honest, cheats = 32, len(span), list[tuple[float, float]](), dict[str, list[tuple[float, float]]]()
    for at in range(0, 6 * length, length):
        told = dict(tokens=one.tokens[at : at + length], hidden=one.hidden[at : at + length])
        right = replace(one, **told).make(length)
        moved_TH = from_blob(nudged(to_blob(told["hidden"]), dtype, dice.randbytes), "cpu", one.model.dtype)
        carried = share(replace(one, tokens=told["tokens"], hidden=moved_TH).make(length), right, layers)
        try:
            honest.append((share(replace(one, **told).make_as_served(length, dice), right, layers), carried))
        finally:
            torch.set_num_threads(threads)
        for name, cheat in {"4-bit copy": four, "a skipped layer": replace(one, span=Span(1, 6)), "other weights": other}.items():
            cheats.setdefault(name, []).append((share(replace(cheat, **told).make(length), right, layers), carried))
    print(f"spread {spread} in {dtype}, in parts of what is usual: honest {max(honest)}, cheats { ({name: min(seen) for name, seen in cheats.items()}) }")
    assert False not in {can_be(*seen) for seen in honest}
    assert max(carried for _, carried in honest) > 1 or (spread, dtype) != (SPREADS[-1], "bfloat16"), "nothing was shown"
    assert max(found / max(1.0, min(CARRIED * carried, MOST)) for found, carried in honest) < 0.8 or spread > 0.2
    assert {can_be(*seen) for found in cheats.values() for seen in found} == {False} or spread > 0.2
    assert all(True not in {can_be(*seen) for seen in found} for found in cheats.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nudged_rows_are_the_next_ones_up_or_down(dtype):
    rows_TH = torch.randn(5, 33, generator=torch.Generator().manual_seed(1)).to(getattr(torch, dtype))
    rows_TH[0, :3] = torch.tensor([0.0, torch.finfo(rows_TH.dtype).max if dtype == "float16" else 1e7, -1.0])
    moved_TH = from_blob(nudged(to_blob(rows_TH), dtype, random.Random(1).randbytes), "cpu", rows_TH.dtype)
    up_TH, down_TH = (torch.nextafter(rows_TH, torch.full_like(rows_TH, there)) for there in (torch.inf, -torch.inf))
    moves = rows_TH != 0
    assert bool(((moved_TH == up_TH) | (moved_TH == down_TH) | (moved_TH == rows_TH))[moves].all()) and bool(torch.isfinite(moved_TH).all())
    assert int((moved_TH != rows_TH)[moves].sum()) >= int(moves.sum()) - 1 and bool((moved_TH == 0)[~moves].all())
    assert 0.3 < float((moved_TH > rows_TH).float().mean()) < 0.7


@pytest.mark.parametrize(("numerics", "step"), [("float32", 2**-23), ("float16", 2**-10), ("bfloat16-int8", 2**-7)])
def test_compressed_rows_are_nudged_as_they_are_computed_with(numerics, step):
    told = to_blob(torch.randn(3, 40, generator=torch.Generator().manual_seed(1)), compress=True)
    moved = nudged(told, numerics, random.Random(1).randbytes)
    assert (moved.dtype, len(moved), moved.width) == (numerics.partition("-")[0], 3, 40)
    far_TH = abs(numbers(moved) - numbers(told)) / (abs(numbers(told)) + 1e-12)
    assert 0.2 * step < far_TH.mean() < far_TH.max() <= 2 * step


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
