"""Room: model. Decoding steps as CUDA graphs. A step of few tokens is hundreds of small kernels, and to ask for them one by one takes a CPU longer than a GPU
needs for the work; a graph asks for all of them at once. Knows how steps are recorded and given their numbers; not how a model computes one.

What changes from step to step are numbers in one table (`attention.TokenTable`) and the hidden states that come in, both always at the same place. A graph is
recorded for each sub-span and each size in SIZES; a step of fewer tokens is filled up with tokens of nobody's.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from swarm.model.cache import KVCache
from swarm.model.gpu.attention import FIRST, SLAB, TokenTable, fill

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Tokens. Up to many more than these a step takes as long as weights are read, so few sizes serve."""

GRAPHS = 64
"""Kept at most; what was not used for longest goes first."""

OFTEN = 8
"""Steps of a sub-span and a size before that is recorded: clients choose sub-spans, and a recording, which runs the layers twice, holds up everybody. So most
steps of sessions that go through many sub-spans are what they were without graphs."""


class Compute(Protocol):
    def __call__(self, start: int, stop: int, given: torch.Tensor, positions_1T: torch.Tensor, table: TokenTable) -> torch.Tensor:
        """Components [start, stop) on ids [1, T] or hidden states [1, T, H]: float32 logits [T, V] of all tokens, or hidden states [T, H]."""


class Recorder(Protocol):
    """Whatever records what a device is asked for. The only part that takes a GPU."""

    device: torch.device

    def pinned(self, ints_TC: torch.Tensor) -> torch.Tensor:
        """The same in memory that copies to the device may be made from without waiting."""

    def record(self, act: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """`act` run, and a function that runs the same again; what comes of it lies in the tensor."""

    def sent(self) -> Callable[[], None]:
        """A function that waits until what was asked for so far is done."""


class CudaRecorder:
    """torch's CUDA graphs, all in one pool of memory: they never run at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def pinned(self, ints_TC: torch.Tensor) -> torch.Tensor:
        return ints_TC.pin_memory()

    def record(self, act: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            act()  # libraries make their workspaces and kernels when they are first called
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            out = act()
        return graph.replay, out

    def sent(self) -> Callable[[], None]:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize


class _Graph:
    """One recorded step."""

    def __init__(self, ints_TC: torch.Tensor, recorder: Recorder, hidden_TH: torch.Tensor | None, first_layer: int) -> None:
        self.host_TC = recorder.pinned(ints_TC)
        self.numbers_TC = self.host_TC.numpy()
        self.ints_TC, self.hidden_TH = ints_TC.to(recorder.device), hidden_TH
        self.table = TokenTable(self.ints_TC, first_layer)
        self.replay: Callable[[], None] = lambda: None
        self.out = torch.empty(0)
        self.sent: Callable[[], None] = lambda: None


class Captured:
    """Steps of a span model, as graphs."""

    def __init__(
        self,
        compute: Compute,
        recorder: Recorder,
        hidden: int,
        dtype: torch.dtype,
        sizes: Sequence[int] = SIZES,
        graphs: int = GRAPHS,
        often: int = OFTEN,
    ) -> None:
        self._compute, self._recorder, self._hidden, self._dtype, self.sizes, self._most, self._often = compute, recorder, hidden, dtype, sizes, graphs, often
        self._graphs: OrderedDict[tuple[int, int, int], _Graph] = OrderedDict()
        self._asked: Counter[tuple[int, int, int]] = Counter()
        """How often there was no graph yet."""
        self._never: set[tuple[int, int, int]] = set()
        """What could not be recorded."""
        self._scratch = torch.empty(0)
        """Where the keys and values of nobody's tokens go, in every layer."""

    def __len__(self) -> int:
        return len(self._graphs)

    def takes(self, start: int, stop: int, count: int, cache: KVCache) -> bool:
        """Whether there is a graph for so many tokens. What has been asked for often is recorded now, and what cannot be is not tried again."""
        key = (start, stop, self._size(count))
        if key in self._graphs:
            return True
        if key in self._never:
            return False
        self._asked[key] += 1
        if self._asked[key] < self._often:
            return False
        del self._asked[key]
        try:
            self._graph(*key, cache)
        except Exception as error:  # no memory for it, or a family that asks the device something half-way: without a graph the step may well run
            why = str(error).splitlines()[0] if str(error) else repr(error)
            log.warning("steps of %d tokens over components [%d, %d) cannot be recorded as a graph, so they run without: %s", key[2], start, stop, why)
            self._never.add(key)
            return False
        return True

    def step(
        self, start: int, stop: int, caches: Sequence[KVCache], starts: Sequence[int], tokens: Sequence[Sequence[int]], hidden: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """What `compute` gives for these tokens, whose caches have room for them in every layer. `hidden` are the rows that come in, none where ids do. Where
        there is no graph it is recorded, whatever comes of that: ask `takes` first."""
        count = sum(map(len, tokens))
        graph = self._graph(start, stop, self._size(count), caches[0])
        graph.sent()  # or the numbers of the last step would be written over before they left
        fill(graph.numbers_TC, caches, starts, tokens)
        self._fill_up(graph.numbers_TC, count, caches[0])
        graph.ints_TC.copy_(graph.host_TC, non_blocking=True)
        graph.sent = self._recorder.sent()
        if graph.hidden_TH is not None:
            torch.cat(list(hidden), out=graph.hidden_TH[:count])
        graph.replay()
        return graph.out[:count].clone()

    def _size(self, count: int) -> int:
        return next(size for size in self.sizes if size >= count)

    def _graph(self, start: int, stop: int, size: int, cache: KVCache) -> _Graph:
        key = (start, stop, size)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = self._recorded(start, stop, size, cache)
            while len(self._graphs) > self._most:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return graph

    def _recorded(self, start: int, stop: int, size: int, cache: KVCache) -> _Graph:
        ints_TC = torch.zeros((size, FIRST + len(cache.slabs()) * SLAB), dtype=torch.int64)
        self._fill_up(ints_TC.numpy(), 0, cache)
        hidden_TH = torch.zeros((size, self._hidden), dtype=self._dtype, device=self._recorder.device) if start else None
        graph = _Graph(ints_TC, self._recorder, hidden_TH, cache.first_layer)

        def act() -> torch.Tensor:
            given = graph.ints_TC[:, 0].contiguous() if hidden_TH is None else hidden_TH
            return self._compute(start, stop, given[None], graph.ints_TC[:, 1].contiguous()[None], graph.table)

        graph.replay, graph.out = self._recorder.record(act)
        return graph

    def _fill_up(self, ints_TC: np.ndarray, count: int, cache: KVCache) -> None:
        """Tokens of nobody's, which look at themselves alone."""
        if count == len(ints_TC):
            return
        if self._scratch.nbytes < 2 * cache.position_nbytes:
            self._scratch = torch.zeros(2 * cache.position_nbytes, dtype=torch.uint8, device=self._recorder.device)
        keys = self._scratch.data_ptr()
        ints_TC[count:, :FIRST] = 0
        ints_TC[count:, FIRST::SLAB], ints_TC[count:, FIRST + 1 :: SLAB], ints_TC[count:, FIRST + 2 :: SLAB] = keys, keys + self._scratch.nbytes // 2, 1
