"""Steps recorded as graphs. Recorders and attention of a GPU are pretended here (`tests/model/test_gpu.py` has the real ones): what is recorded is run again,
and attention reads its table as kernels do, by address."""

from __future__ import annotations

import ctypes
import logging

import pytest
import torch

from swarm.core import Span
from swarm.model.cache import KVCache
from swarm.model.gpu.attention import FIRST, SLAB, GpuAttention, TokenTable, fill
from swarm.model.gpu.captured import OFTEN, SIZES
from swarm.model.span import Row, SpanModel

WHOLE = Span(0, 7)


class Attention(GpuAttention):
    """One token after the other, from where its row of the table says that its session's keys and values lie."""

    def __init__(self) -> None:
        self.device, self.rows = torch.device("cpu"), 0

    def __call__(self, table: TokenTable, layer, q_1QTD, k_1KTD, v_1KTE, scaling, window=0, softcap=0.0, sinks_Q=None):
        outs = []
        for at, row in enumerate(table.ints_TC.tolist()):
            keys, values, room = row[FIRST + (layer - table.first_layer) * SLAB :][:SLAB]
            position = row[1]
            k_KLD, v_KLE = (_seen(address, room, new[0, :, at]) for address, new in ((keys, k_1KTD), (values, v_1KTE)))
            k_KLD[:, position], v_KLE[:, position] = k_1KTD[0, :, at], v_1KTE[0, :, at]
            self.rows += 1
            q_KG1D = q_1QTD[0, :, at].reshape(k_KLD.shape[0], -1, 1, q_1QTD.shape[3])
            scores_KGL = (q_KG1D * k_KLD[:, None, : position + 1]).sum(3) * scaling
            outs.append((scores_KGL.softmax(2)[..., None] * v_KLE[:, None, : position + 1]).sum(2).reshape(1, -1, v_1KTE.shape[3]))
        return torch.stack(outs, dim=1)


def _seen(address: int, room: int, new_KD: torch.Tensor) -> torch.Tensor:
    """The numbers at an address."""
    count = new_KD.shape[0] * room * new_KD.shape[1]
    return torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32).view(new_KD.shape[0], room, new_KD.shape[1])


class Recorder:
    """Runs again what it was given once."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.recorded, self.replayed, self.pending = device, 0, 0, 0

    def pinned(self, ints_TC: torch.Tensor) -> torch.Tensor:
        return ints_TC

    def record(self, act):
        self.recorded += 1
        out = act()

        def again() -> None:
            self.replayed += 1
            out.copy_(act())

        return again, out

    def sent(self):
        return lambda: None


@pytest.fixture
def recorders(monkeypatch) -> list[Recorder]:
    made: list[Recorder] = []

    def new(device: torch.device) -> Recorder:
        made.append(Recorder(device))
        return made[-1]

    monkeypatch.setattr("swarm.model.span.CudaRecorder", new)
    return made


@pytest.fixture
def load(tiny):
    def new(span: Span = WHOLE) -> SpanModel:
        model = SpanModel.load(tiny("llama").checkpoint, [span], dtype="float32")
        model._native, model._gpu = None, Attention()
        model._machine = model._gpu
        return model

    return new


def adopted(model: SpanModel) -> SpanModel:
    assert model.records and model.use_compiled({}) == model.layers_of(model.spans[0])
    assert model._captured is not None
    return model


def ask(model: SpanModel, caches, prompts, steps: int) -> list[list[int]]:
    """Prompts of any length, and greedy answers."""
    span = model.spans[0]
    answers = [[int(out[-1].argmax())] for out in model.run(span.start, span.stop, [Row(c, 0, p) for c, p in zip(caches, prompts, strict=True)])]
    for _ in range(steps):
        rows = [Row(cache, cache.length, answer[-1:]) for cache, answer in zip(caches, answers, strict=True)]
        for answer, out in zip(answers, model.run(span.start, span.stop, rows), strict=True):
            answer.append(int(out[-1].argmax()))
    return answers


PROMPTS = [[at + 3 * i for i in range(20 + at)] for at in range(5)]


@pytest.mark.parametrize("sessions", [1, 2, 3, 5])
def test_answers_are_the_same_from_graphs(load, recorders, sessions):
    eager, model = load(), adopted(load())
    wanted = ask(eager, [eager.new_cache(0, 7) for _ in range(sessions)], PROMPTS[:sessions], 40)
    before = recorders[0].replayed
    assert ask(model, [model.new_cache(0, 7) for _ in range(sessions)], PROMPTS[:sessions], 40) == wanted
    assert recorders[0].replayed == before + 40, "every step but the prompts"
    assert recorders[0].recorded == len(SIZES), "and nothing was recorded anew"


def test_hidden_states_come_in_and_go_out(load, recorders):
    """The middle of a chain, and its end."""
    eager, first, last = load(), adopted(load(Span(0, 3))), adopted(load(Span(3, 7)))
    wanted = ask(eager, [eager.new_cache(0, 7) for _ in range(3)], PROMPTS[:3], 8)
    caches = [(first.new_cache(0, 3), last.new_cache(3, 7)) for _ in range(3)]
    tokens, answers = PROMPTS[:3], [[] for _ in range(3)]
    for _ in range(9):
        hidden = first.run(0, 3, [Row(one, one.length, ids) for (one, _), ids in zip(caches, tokens, strict=True)])
        rows = [Row(two, two.length, ids, rows) for (_, two), ids, rows in zip(caches, tokens, hidden, strict=True)]
        tokens = [[int(out[-1].argmax())] for out in last.run(3, 7, rows)]
        for answer, ids in zip(answers, tokens, strict=True):
            answer += ids
    assert answers == wanted


def test_several_tokens_of_some_sessions_and_one_of_others(load, recorders):
    """As where drafts are verified: logits of every offset that is wanted, and of no other."""
    eager, model = load(), adopted(load())
    found = []
    for each in (eager, model):
        caches = [each.new_cache(0, 7) for _ in range(2)]
        ask(each, caches, PROMPTS[:2], 0)
        found.append(each.run(0, 7, [Row(caches[0], 20, [5, 6, 7], want=[0, 2]), Row(caches[1], 21, [9])]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert [len(rows) for rows in found[1]] == [2, 1]


def test_more_sessions_than_a_graph_takes(load, recorders):
    model = adopted(load())
    caches = [model.new_cache(0, 7) for _ in range(SIZES[-1] + 3)]
    prompts = [[at % 50 + 1, 3, 5] * 6 for at in range(len(caches))]
    eager = load()
    assert ask(model, caches, prompts, 2) == ask(eager, [eager.new_cache(0, 7) for _ in prompts], prompts, 2)


def test_sessions_that_have_begun_go_on_as_they_began(load, recorders):
    model = load()
    before = model.new_cache(0, 7)
    ask(model, [before], PROMPTS[:1], 1)
    first = adopted(model)._captured
    after = model.new_cache(0, 7)
    ask(model, [after], PROMPTS[:1], 1)
    second = adopted(model)._captured
    latest = model.new_cache(0, 7)
    ask(model, [latest], PROMPTS[:1], 1)
    assert (before.captured, after.captured, latest.captured) == (None, first, second) and first is not second
    counts = [recorder.replayed for recorder in recorders]
    model.run(0, 7, [Row(cache, cache.length, [1]) for cache in (before, after, latest)])
    assert [recorder.replayed - count for recorder, count in zip(recorders, counts, strict=True)] == [1, 1]


def test_a_cut_and_a_session_that_begins_as_another(load, recorders):
    eager, model = load(), adopted(load())
    for each in (eager, model):
        one, two = each.new_cache(0, 7), each.new_cache(0, 7)
        ask(each, [one], PROMPTS[:1], 30)
        for _ in two.begin_as(one, 25):
            pass
        one.truncate(22)
        out = each.run(0, 7, [Row(one, 22, [4]), Row(two, 25, [8])])
        if each is eager:
            wanted = out
    for one, other in zip(out, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert two.captured is model._captured


def test_graphs_that_are_wrong_are_not_used(load, recorders, caplog, monkeypatch):
    model = load()
    monkeypatch.setattr(Recorder, "record", lambda self, act: (lambda: None, act() * 0))
    with caplog.at_level(logging.WARNING):
        assert model.use_compiled({}) == 0
    assert model._captured is None and "not right" in caplog.text
    assert model.new_cache(0, 7).captured is None


def test_a_family_that_cannot_be_recorded_stays_eager(load, recorders, caplog, monkeypatch):
    model = load()

    def refuses(self, act):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorder, "record", refuses)
    with caplog.at_level(logging.INFO):
        assert model.use_compiled({}) == 0
    assert "cannot be recorded" in caplog.text
    assert ask(model, [model.new_cache(0, 7)], PROMPTS[:1], 3)


def through(model: SpanModel, stop: int, steps: int) -> list[torch.Tensor]:
    """A session over the first components alone, which no graph was proved with: a prompt, and single tokens."""
    cache = model.new_cache(0, stop)
    model.run(0, stop, [Row(cache, 0, PROMPTS[0])])
    return [model.run(0, stop, [Row(cache, cache.length, [at + 1])])[0] for at in range(steps)]


def test_a_part_of_the_span_is_recorded_once_it_is_used_often(load, recorders):
    """Whoever goes through all parts makes few recordings."""
    eager, model = load(), adopted(load())
    before = recorders[0].recorded, recorders[0].replayed
    for stop in 2, 3, 4:
        through(model, stop, OFTEN - 1)
    assert (recorders[0].recorded, recorders[0].replayed) == before
    for one, other in zip(through(model, 4, 3), through(eager, 4, 3), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert (recorders[0].recorded, recorders[0].replayed) == (before[0] + 1, before[1] + 3)


def test_what_left_for_others_must_be_used_often_again(load, recorders):
    model = adopted(load())
    assert model._captured is not None
    model._captured._most = 1
    before = recorders[0].recorded
    for stop in 3, 4, 3, 4:
        through(model, stop, OFTEN)
    assert recorders[0].recorded == before + 4
    through(model, 3, OFTEN - 1)
    assert recorders[0].recorded == before + 4


def test_a_part_that_cannot_be_recorded_is_served_without(load, recorders, caplog, monkeypatch):
    eager, model = load(), adopted(load())
    tried: list[int] = []

    def full(self, act):
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Recorder, "record", full)
    with caplog.at_level(logging.WARNING):
        found = through(model, 4, 3 * OFTEN)
    for one, other in zip(found, through(eager, 4, 3 * OFTEN), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert len(tried) == 1 and caplog.text.count("out of memory") == 1
    replayed = recorders[0].replayed
    ask(model, [model.new_cache(0, 7)], PROMPTS[:1], 3)
    assert recorders[0].replayed == replayed + 3, "what was recorded goes on"


def test_a_step_that_fills_its_graph_does_not_ask_how_large_nobodys_tokens_are(load, recorders, monkeypatch):
    model = adopted(load())
    cache = model.new_cache(0, 7)
    ask(model, [cache], PROMPTS[:1], 0)
    monkeypatch.setattr(KVCache, "position_nbytes", property(lambda self: pytest.fail("every layer was looked at")))
    model.run(0, 7, [Row(cache, 20, [3])])


def test_numbers_wait_until_the_last_ones_have_left(load, recorders, monkeypatch):
    """The host's table is written again only when its copy is done."""
    model = adopted(load())
    order: list[str] = []
    monkeypatch.setattr(Recorder, "sent", lambda self: lambda: order.append("left"))
    monkeypatch.setattr("swarm.model.gpu.captured.fill", lambda *args: (order.append("filled"), fill(*args)))
    cache = model.new_cache(0, 7)
    ask(model, [cache], PROMPTS[:1], 2)
    assert order[-2:] == ["left", "filled"]


def test_graphs_that_were_used_last_are_kept(load, recorders):
    model = adopted(load())
    assert model._captured is not None
    model._captured._most, model._captured._often = 2, 1
    model._captured._graphs.clear()
    cache = model.new_cache(0, 7)
    ask(model, [cache], PROMPTS[:1], 0)
    for count in 1, 2, 1, 4:
        model.run(0, 7, [Row(cache, cache.length, [3] * count)])
    assert [size for _, _, size in model._captured._graphs] == [1, 4]


def test_what_a_step_gave_is_not_written_over_by_the_next(load, recorders):
    model = adopted(load())
    cache = model.new_cache(0, 7)
    ask(model, [cache], PROMPTS[:1], 0)
    (out,) = model.run(0, 7, [Row(cache, 20, [3])])
    before = out.clone()
    model.run(0, 7, [Row(cache, 21, [4])])
    assert torch.equal(out, before)


def test_hidden_states_that_are_read_and_long_rows_come_without_graphs(load, recorders):
    eager, model = load(), adopted(load())
    found = []
    for each in (eager, model):
        cache = each.new_cache(0, 7)
        ask(each, [cache], PROMPTS[:1], 0)
        found.append([*each.run(0, 7, [Row(cache, 20, [3], raw=True)]), *each.run(0, 7, [Row(cache, 21, [4] * (SIZES[-1] + 6))])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
