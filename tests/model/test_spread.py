"""A model over several devices, and layers that are streamed to one. The devices are pretended (tests/model/pretend.py): where everything lies is checked, and
what comes out; not that it is fast, nor that a real device's streams wait for one another."""

from __future__ import annotations

import pytest
import torch

from swarm.core import Span
from swarm.errors import InvalidConfig
from swarm.model.layout import Layout
from swarm.model.measure import measure_speed
from swarm.model.span import SpanModel
from tests.model.pretend import Pretending
from tests.model.tiny import LAYERS, VOCAB, Chain, feed, generated, prompt_of

HEAD = LAYERS + 1
WHOLE = Span(0, HEAD + 1)
FIRST, SECOND = "lazy:0", "lazy:1"
SPREAD = Layout((FIRST, SECOND), {i: FIRST if i < 3 else SECOND for i in range(HEAD + 1)})


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma2", "qwen2", "phi3", "gpt2", "opt-projected"])
def test_layers_over_two_devices_answer_as_on_one(tiny, family):
    """Anything that is computed from tensors of both devices raises."""
    known, prompt = tiny(family), prompt_of(20)
    with Pretending() as devices:
        model = known.load(WHOLE, layout=SPREAD)
        devices.used.clear()
        whole = Chain([(model, 0, HEAD + 1)])
        tokens = whole.generate(prompt, 8, [7])
        cut = Chain([(model, 0, 2), (model, 2, 4), (model, 4, HEAD), (model, HEAD, HEAD + 1)]).generate(prompt, 8, [7])
        some = whole.feed([1, 2, 3], [0, 2])
        assert [str(whole.caches[0]._keys[layer].device) for layer in range(LAYERS)] == [FIRST] * 2 + [SECOND] * 3
        assert str(some.device) == SECOND and tuple(some.shape) == (2, VOCAB)
        assert min(devices.used[FIRST], devices.used[SECOND]) > 1000
    assert tokens == cut == generated(known.model, prompt, 8)


def test_sessions_packed_over_two_devices(tiny):
    with Pretending():
        model = tiny("mistral").load(WHOLE, layout=SPREAD)
        parts = [(model, 0, HEAD + 1)]
        alone = Chain(parts).feed(prompt_of(30)).cpu()
        one, other = Chain(parts), Chain(parts)
        feed([one, other], [prompt_of(30)[:18], [4]], [[], []])
        packed = feed([one, other], [prompt_of(30)[18:], [5, 6]], [None, None])[0].cpu()
    torch.testing.assert_close(packed, alone)


def test_each_device_holds_its_own_weights_and_a_tied_matrix_is_on_both(tiny):
    with Pretending():
        model = tiny("llama-tied").load(WHOLE, layout=SPREAD)._model
        assert {str(parameter.device) for parameter in model.model.layers[1].parameters()} == {FIRST}
        assert {str(parameter.device) for parameter in model.model.layers[2].parameters()} == {SECOND}
        assert (str(model.model.embed_tokens.weight.device), str(model.lm_head.weight.device)) == (FIRST, SECOND)
        assert str(model.model.norm.weight.device) == SECOND


def test_weights_are_rounded_layer_by_layer_where_they_arrive(tiny, monkeypatch):
    monkeypatch.setattr("swarm.model.quantized.LEAST", 16)
    known, prompt = tiny("llama"), prompt_of(9)
    expected = Chain([(known.load(WHOLE, quantize="int8"), 0, HEAD + 1)]).feed(prompt)
    with Pretending():
        model = known.load(WHOLE, quantize="int8", layout=SPREAD)
        found = Chain([(model, 0, HEAD + 1)]).feed(prompt).cpu()
        assert str(model._model.model.layers[3].mlp.up_proj.weight_OI.device) == SECOND
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_exact_weights_never_fill_a_device_on_which_only_rounded_ones_fit(tiny, monkeypatch):
    seen: list[int] = []

    def rounded(module, method, native=None):
        assert method == "int8"
        seen.append(sum(str(parameter.device) == FIRST for parameter in module.parameters()))

    monkeypatch.setattr("swarm.model.span.round_weights", rounded)
    with Pretending():
        model = tiny("llama").load(Span(1, HEAD), quantize="int8", layout=Layout.alone(FIRST, [Span(1, HEAD)]))
        each = len(list(model._model.model.layers[0].parameters()))
    assert seen == [each] * LAYERS + [each * LAYERS]  # one layer after the other, and at last what is no layer


def test_what_several_layers_share_changes_devices_once_a_run(tiny, monkeypatch):
    with Pretending():
        model = tiny("llama").load(WHOLE, layout=SPREAD)
        chain, moved = Chain([(model, 0, HEAD + 1)]), []
        chain.feed(prompt_of(5), [])
        moves = model._spread._moves
        move = moves._moved
        monkeypatch.setattr(moves, "_moved", lambda tensor, to: moved.append(move(tensor, to)) or moved[-1])
        chain.feed([1])
        assert len(moved) > LAYERS  # positions, cosines and sines are asked for by each layer of the second device
        assert len({id(tensor) for tensor in moved}) == 4  # and hidden states once
        assert not moves._taken


# --- streamed -------------------------------------------------------------------------------------------------------------------------------------------------


class EarlyLine:
    """Copies at once when it is asked to. Whoever asks while what lies there is still needed computes with something else."""

    def __init__(self, device: str, log: list[tuple[str, int]]) -> None:
        self._device, self.log = device, log

    def keep(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def buffer(self, size: int) -> torch.Tensor:
        return torch.full((size,), 255, dtype=torch.uint8).to(self._device)  # not a number, in every dtype

    def bring(self, slot: int, block: torch.Tensor, place: torch.Tensor) -> None:
        self.log.append(("bring", slot))
        place.copy_(block)

    def wait(self, slot: int) -> None:
        self.log.append(("wait", slot))


class LateLine(EarlyLine):
    """Copies when it is waited for and not before. Whoever does not wait computes with what was there."""

    def __init__(self, device: str, log: list[tuple[str, int]]) -> None:
        super().__init__(device, log)
        self._due: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def bring(self, slot: int, block: torch.Tensor, place: torch.Tensor) -> None:
        self.log.append(("bring", slot))
        self._due[slot] = block, place

    def wait(self, slot: int) -> None:
        self.log.append(("wait", slot))
        if slot in self._due:
            block, place = self._due.pop(slot)
            place.copy_(block)


STREAMED = frozenset([1, 2, 4, 5])


@pytest.fixture(params=[EarlyLine, LateLine])
def log(request, monkeypatch):
    """What the line to the device was asked for."""
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr("swarm.model.spread.line_to", lambda device: request.param(device, asked))
    return asked


def load_streamed(known, *spans: Span, streamed: frozenset[int] = STREAMED, **options) -> SpanModel:
    held = [i for span in spans for i in range(span.start, span.stop)]
    return known.load(*spans, layout=Layout((FIRST,), dict.fromkeys(held, FIRST), streamed), **options)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_streamed_layers_answer_as_those_that_stay(tiny, family, log):
    known, prompt = tiny(family), prompt_of(20)
    with Pretending():
        model = load_streamed(known, WHOLE)
        assert Chain([(model, 0, HEAD + 1)]).generate(prompt, 8, [7]) == generated(known.model, prompt, 8)


def test_sub_spans_in_any_order_and_runs_that_fail(tiny, log, monkeypatch):
    """Guesses which layer is next go wrong here, and are only guesses."""
    known, prompt = tiny("llama"), prompt_of(12)
    with Pretending():
        model = load_streamed(known, WHOLE, streamed=frozenset([1, 2, 3, 4, 5]))
        cut = Chain([(model, 0, 2), (model, 2, 5), (model, 5, HEAD + 1)])
        other = Chain([(model, 0, 4), (model, 4, HEAD + 1)])
        cut.feed(prompt[:5], [])
        other.feed(prompt[:3], [])
        with monkeypatch.context() as broken:
            broken.setattr(model._model.model.layers[2].mlp, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
            with pytest.raises(RuntimeError, match="out of memory"):
                Chain([(model, 0, HEAD + 1)]).feed(prompt)
        expected = generated(known.model, prompt, 6)
        assert cut.generate(prompt[5:], 6) == other.generate(prompt[3:], 6) == expected


def test_the_next_layer_is_on_its_way_while_one_runs(tiny, log):
    with Pretending():
        model = load_streamed(tiny("llama"), WHOLE)
        chain = Chain([(model, 0, HEAD + 1)])
        chain.feed(prompt_of(3))
        before = len(log)
        chain.feed([1])
        step = log[before:]
    assert step == [("wait", 0), ("bring", 0), ("wait", 1), ("bring", 1), ("wait", 0), ("bring", 0), ("wait", 1), ("bring", 1)]


def test_streamed_layers_of_two_devices_and_rounded(tiny, log, monkeypatch):
    monkeypatch.setattr("swarm.model.quantized.LEAST", 16)
    known, prompt = tiny("llama"), prompt_of(9)
    expected = Chain([(known.load(WHOLE, quantize="int8"), 0, HEAD + 1)]).feed(prompt)
    with Pretending():
        layout = Layout(SPREAD.devices, SPREAD.on, frozenset([1, 2, 3, 4, 5]))
        model = known.load(WHOLE, quantize="int8", layout=layout)
        chain = Chain([(model, 0, HEAD + 1)])
        found = chain.feed(prompt).cpu()
        again = Chain([(model, 0, HEAD + 1)]).feed(prompt).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, found)


def test_speed_is_measured_over_all_layers_where_some_are_streamed(tiny, log, monkeypatch):
    monkeypatch.setattr("swarm.model.measure.MAX_LAYERS", 2)
    ran: list[int] = []
    run = SpanModel.run

    def seen(self, start, stop, rows):
        ran.append(stop - start)
        return run(self, start, stop, rows)

    monkeypatch.setattr(SpanModel, "run", seen)
    with Pretending():
        measure_speed(load_streamed(tiny("llama"), Span(1, HEAD)), budget=0.0)
    assert set(ran) == {LAYERS}
    ran.clear()
    measure_speed(tiny("llama").load(Span(1, HEAD)), budget=0.0)
    assert set(ran) == {2}


def test_layers_are_streamed_where_that_is_known_to_work(tiny):
    with pytest.raises(InvalidConfig, match="streamed to CUDA and ROCm devices only, not to mps"):
        tiny("llama").load(Span(1, 4), layout=Layout(("mps",), dict.fromkeys(range(1, 4), "mps"), frozenset([1, 2, 3])))


@pytest.mark.parametrize("nth", range(1, 7))
def test_a_layer_that_could_not_be_copied_in_is_not_taken_to_be_there(tiny, log, monkeypatch, nth):
    """Or its place would hold another one's weights under its name."""
    known, prompt, calls = tiny("llama"), prompt_of(12), []
    brings = {kind: kind.bring for kind in (EarlyLine, LateLine)}

    def fails(line, slot, block, place):
        calls.append(slot)
        if len(calls) == nth:
            raise RuntimeError("out of memory")
        brings[type(line)](line, slot, block, place)

    with Pretending():
        model = load_streamed(known, WHOLE)
        monkeypatch.setattr(EarlyLine, "bring", fails)
        monkeypatch.setattr(LateLine, "bring", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            Chain([(model, 0, HEAD + 1)]).feed(prompt)
        assert Chain([(model, 0, HEAD + 1)]).generate(prompt, 6) == generated(known.model, prompt, 6)
