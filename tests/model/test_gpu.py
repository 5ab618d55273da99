"""What only a GPU can show: kernels, graphs, layers that are streamed in from host memory, rounded weights there. Skipped where there is none."""

from __future__ import annotations

import logging

import pytest
import torch

from swarm.core import Span
from swarm.model.gpu.attention import CLOSE, attends, gpu_attention
from swarm.model.layout import Layout
from swarm.model.span import Row, SpanModel
from tests.model.tiny import FAMILIES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that CUDA or ROCm knows")

DEVICE = "cuda:0"
WHOLE = Span(0, 7)
PROMPTS = [[(at * 7 + 3 * i) % 60 for i in range(20 + at)] for at in range(5)]


def ask(model: SpanModel, sessions: int, steps: int) -> list[list[torch.Tensor]]:
    """Logits of every step of some sessions that are asked together; what they go on with is the same for every model."""
    caches = [model.new_cache(0, 7) for _ in range(sessions)]
    outs = [[out.cpu()] for out in model.run(0, 7, [Row(cache, 0, ids) for cache, ids in zip(caches, PROMPTS, strict=False)])]
    for step in range(steps):
        rows = [Row(cache, cache.length, [(step * 5 + at) % 60]) for at, cache in enumerate(caches)]
        for each, out in zip(outs, model.run(0, 7, rows), strict=True):
            each.append(out.cpu())
    return outs


def check(model: SpanModel, wanted: SpanModel, sessions: int = 5, steps: int = 30, close: float = 1e-3) -> None:
    for mine, theirs in zip(ask(model, sessions, steps), ask(wanted, sessions, steps), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", CLOSE)
def test_kernels_attend_as_torch_does(dtype):
    attention = gpu_attention(DEVICE, dtype)
    assert attention is not None and attends(attention, dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_on_a_gpu_as_on_a_cpu(tiny, family, caplog):
    caplog.set_level(logging.INFO)
    model, wanted = tiny(family).load(WHOLE, dtype="float32", device=DEVICE), tiny(family).load(WHOLE, dtype="float32")
    check(model, wanted)
    model.use_compiled({})
    assert model._captured is not None or not model.records or "cannot be recorded" in caplog.text
    check(model, wanted)
    print(f"{family}: {'graphs' if model._captured else 'eager'}")


def test_layers_that_are_streamed_in_answer_as_those_that_stay(tiny):
    held = range(WHOLE.start, WHOLE.stop)
    for streamed in (frozenset([2, 3, 5]), frozenset([1, 2, 3, 4, 5])):
        model = tiny("llama").load(WHOLE, dtype="float32", layout=Layout((DEVICE,), dict.fromkeys(held, DEVICE), streamed))
        assert not model.records
        check(model, tiny("llama").load(WHOLE, dtype="float32"))


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_rounded_weights_on_a_gpu_are_those_on_a_cpu(tiny, method):
    model, wanted = (tiny("llama-tied").load(WHOLE, dtype="float32", quantize=method, device=device) for device in (DEVICE, "cpu"))
    check(model, wanted)
    model.use_compiled({})
    assert model._captured is not None
    check(model, wanted)


def test_memory_of_sessions_comes_back(tiny):
    model = tiny("llama").load(WHOLE, dtype="float32", device=DEVICE)
    model.use_compiled({})
    ask(model, 5, 10)
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        ask(model, 5, 10)
    assert torch.cuda.memory_allocated() == before
