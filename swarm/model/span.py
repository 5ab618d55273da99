"""Room: model. The part of a model that one peer holds, loaded and run. Knows how to load, pack and run; not who asks, nor what a route is.

Shapes: T = tokens of all rows together, n = tokens of one row, W = rows whose logits are wanted, H = hidden width, V = vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from swarm.core import Span, merge_spans
from swarm.errors import InvalidConfig, UnsupportedModel
from swarm.model import pages
from swarm.model.anatomy import Anatomy, View, cut, dissect, part_class
from swarm.model.attention import Machine, Pack, seat
from swarm.model.cache import KVCache
from swarm.model.checkpoint import Checkpoint
from swarm.model.compiled import CompiledLayers
from swarm.model.devices import synchronize
from swarm.model.families import length_scaling
from swarm.model.gpu.attention import GpuAttention, TokenTable, gpu_attention
from swarm.model.gpu.captured import Captured, CudaRecorder
from swarm.model.layout import Layout, mapped_components
from swarm.model.loading import read_part, share
from swarm.model.mapped import Matrices
from swarm.model.memory import give_back
from swarm.model.names import is_output_matrix, is_token_embedding
from swarm.model.native import Native, native_code
from swarm.model.products import FEW, tune
from swarm.model.quantized import METHODS
from swarm.model.quantized import quantize as round_weights
from swarm.model.recipes import MOST, Recipe
from swarm.model.rotary import ReachRotary
from swarm.model.sources import cache_folder
from swarm.model.spread import Spread, spread
from swarm.model.threads import choose as choose_threads
from swarm.model.threads import fill, widened
from swarm.model.trial import NEEDED, prove, prove_captured

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MOST_VIEWS = 64
"""Sub-spans that are kept ready: whoever asks chooses them, and one takes some 2 KiB for each layer of the model."""


@dataclass(slots=True)
class Row:
    """New positions [start, start + n) of one session, n = len(tokens). `tokens` are used where the sub-span begins with `embed`, `hidden` [n, H] elsewhere.

    `want` holds the offsets in [0, n) whose logits are wanted when the sub-span ends with `head`; None is the last one alone. `raw` wants of these what the
    head's matrix is given instead: the hidden states behind the final norm.
    """

    cache: KVCache
    start: int
    tokens: Sequence[int]
    hidden: torch.Tensor | None = None
    want: Sequence[int] | None = None
    raw: bool = False


class SpanModel:
    """Some spans of a model, with their weights. Load with `SpanModel.load`. For one thread at a time.

    `spans` are sorted and merged, `dtype` is torch's, `numerics` the name of the arithmetic that peers of one chain must share, `hidden` H, `vocab` V.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        checkpoint: Checkpoint,
        spans: Sequence[Span],
        dtype: torch.dtype,
        spread: Spread,
        quantized: str | None = None,
        native: Native | None = None,
        gpu: GpuAttention | None = None,
    ) -> None:
        config = model.config
        self.spans, self.dtype, self.device = tuple(spans), dtype, torch.device(spread.layout.entry)
        self._spread, self.layout = spread, spread.layout
        self.hidden, self.vocab, self.max_length = config.hidden_size, config.vocab_size, checkpoint.shape.max_length
        self.numerics = _numerics(model, dtype) + (f"-{quantized}" if quantized else "")
        self._model, self._anatomy, self._turn = model, dissect(model), seat(model)
        self._views: dict[tuple[int, int], View] = {}
        self._checkpoint, self._native, self._gpu = checkpoint, native, gpu
        self._machine: Machine | None = native.attention if native is not None else gpu
        self._compiled: CompiledLayers | None = None
        self._captured: Captured | None = None
        self._scaling = length_scaling(config)
        self._rotaries: list[ReachRotary] = []
        if self._scaling:
            for path in self._anatomy.rotary:
                parent, _, name = path.rpartition(".")
                rotary = ReachRotary(model.get_submodule(path))
                setattr(model.get_submodule(parent), name, rotary)
                self._rotaries.append(rotary)

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        spans: Sequence[Span],
        *,
        dtype: str | None = None,
        device: str = "cpu",
        quantize: str | None = None,
        on_disk: Collection[str] = (),
        layout: Layout | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> SpanModel:
        """Read the weights of `spans`, and only those; `dtype` other than the checkpoint's converts them, and `quantize`, one of `quantized.METHODS`, rounds
        those of linear layers. `layout` says what lies where, instead of `device` for everything; what `on_disk` names, of `layout.ON_DISK`, stays mapped.
        `progress` is called with 0.0 to 1.0.

        Raises InvalidConfig (dtype, device), NotAModel, UnsafeWeights, UnsupportedModel, DoesNotFit (disk), HubUnreachable.
        """
        spans = merge_spans(spans)
        name = dtype or checkpoint.dtype
        if name not in DTYPES:
            raise InvalidConfig(f"dtype {name} is not served; choose one of {', '.join(DTYPES)}")
        if quantize not in (None, *METHODS):
            raise InvalidConfig(f"weights cannot be quantized as {quantize}; choose {', '.join(METHODS)}")
        if spans[-1].stop > checkpoint.shape.components:
            raise ValueError(f"components [{spans[-1].start}, {spans[-1].stop}) reach beyond the {checkpoint.shape.components} of {checkpoint.name}")
        if quantize is not None and "head" in on_disk:
            raise InvalidConfig("a head that is rounded is none that is in the model's files; leave head out of --on-disk, or --quantize")
        tensors = checkpoint.tensors_for(spans)
        matrices = Matrices(checkpoint, spans, mapped_components(on_disk, checkpoint.shape.components))
        layout = layout or Layout.alone(device, spans, matrices.components)
        folder = checkpoint.fetch(spans, progress=share(progress, 0.0, 0.5))
        head = checkpoint.shape.head
        kind = part_class(
            checkpoint.model_class,
            spans,
            needs_embedding=any(head in span for span in spans) and not any(map(is_output_matrix, tensors)) and head not in matrices.left_out,
            needs_output=any(0 in span for span in spans) and not any(map(is_token_embedding, tensors)) and 0 not in matrices.left_out,
            left_out=matrices.left_out,
        )
        model = read_part(kind, checkpoint, folder, tensors, DTYPES[name], share(progress, 0.5, 1.0))
        anatomy = dissect(model)
        matrices.seat(model, anatomy, folder, DTYPES[name], layout.entry)
        native = native_code(cache_folder()) if layout.devices == ("cpu",) and not layout.streamed else None

        def finish(module: torch.nn.Module) -> None:
            if quantize is not None and (module is model or layout.devices != ("cpu",)):  # elsewhere at once, or exact weights would have to fit
                round_weights(module, quantize, native=native.product.rounded[quantize] if native else None)

        try:
            spread_model = spread(model, anatomy, layout, finish)
        except (RuntimeError, AssertionError) as error:
            where = ", ".join(layout.devices)
            raise InvalidConfig(f"cannot use device {where} ({str(error).splitlines()[0]}); choose cpu, or a device this machine has") from error
        if quantize is not None:
            give_back(layout.entry)
        if layout.devices == ("cpu",) and not layout.streamed and pages.are_to_be_had():
            pages.move(_read_in_every_step(model, anatomy, layout))
        tune(model, native=native.product if native else None)
        gpu = gpu_attention(layout.entry, DTYPES[name]) if len(layout.devices) == 1 and layout.entry.startswith("cuda") else None
        return cls(model, checkpoint, spans, DTYPES[name], spread_model, quantize, native, gpu)

    def choose_threads(self, clock: Callable[[], float] = time.perf_counter) -> int:
        """Compute on as many threads as is fastest from now on, and say how many. Takes less than a second."""
        return choose_threads(self._model, clock)

    @property
    def fills_cores(self) -> bool:
        """Whether it keeps the machine's cores busy by itself."""
        return self.device.type == "cpu" and fill()

    @property
    def head(self) -> int:
        """Index of the component `head`."""
        return self._anatomy.count + 1

    @property
    def spans_with_layers(self) -> tuple[Span, ...]:
        return tuple(span for span in self.spans if self.layers_of(span))

    def layers_of(self, span: Span) -> int:
        """How many layers are in it."""
        return sum(1 for i in range(self._anatomy.count) if i + 1 in span)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held; tied ones count once."""
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in self._model.state_dict().values()}.values())

    def synchronize(self) -> None:
        """Wait until every device has done what it was asked for."""
        synchronize(self.layout.devices)

    def new_cache(self, start: int, stop: int, limit: int | None = None) -> KVCache:
        """An empty cache for one session at the sub-span [start, stop); `limit` is the highest length the session may reach, if known."""
        self._check(start, stop)
        return KVCache(start, stop, limit, compiled=self._compiled is not None and self._compiled.proven, captured=self._captured)

    # --- compiled layers --------------------------------------------------------------------------------------------------------------------------------------

    def recipes(self) -> dict[int, Recipe]:
        """What `compiled.compile_layers` needs to make decoding steps of each layer faster; nothing where there is no code of our own."""
        if self._native is None or self.dtype not in (torch.float32, torch.bfloat16):
            return {}
        folder, config_hash, path = self._checkpoint.small_files(), self._checkpoint.config_hash, self._anatomy.layers
        found = {}
        for i, layer in self._layers().items():
            found[i] = Recipe.of(layer, folder=folder, config_hash=config_hash, path=path, layer=i, dtype=self.dtype, native=self._native.path)
        return found

    def _layers(self) -> dict[int, torch.nn.Module]:
        """Those held, by their numbers in the model."""
        held = (i for i in range(self._anatomy.count) if any(i + 1 in span for span in self.spans))
        return {i: self._model.get_submodule(f"{self._anatomy.layers}.{i}") for i in held}

    def use_compiled(self, recipes: Mapping[int, Recipe], clock: Callable[[], float] = time.perf_counter) -> int:
        """All of `adopting` at once; how many layers run compiled from now on."""
        pieces = self.adopting(recipes, clock)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                return end.value

    def adopting(self, recipes: Mapping[int, Recipe], clock: Callable[[], float] = time.perf_counter) -> Generator[None, None, int]:
        """Run these layers as compiled, as far as they are held, prove to compute what they should, and are not slower; how many do. On a GPU, where there are
        none, record steps as graphs; how many layers are in them. A piece at a time: between two of them everything is as it was, and whoever stops half-way
        leaves it so. Sessions that have begun go on as they began.

        Raises Unsuitable for code that cannot be loaded.
        """
        if self.max_length < NEEDED:
            return 0
        if self.records:
            return (yield from self._capture())
        held = self.recipes()
        recipes = {i: recipe for i, recipe in recipes.items() if i in held and held[i].key == recipe.key}
        if self._native is None or not recipes:
            return 0
        layers = self._layers()
        compiled = CompiledLayers({i: layers[i] for i in recipes}, {i: recipe.place for i, recipe in recipes.items()}, self._native)
        self._compiled = compiled
        try:
            yield
            yield from prove(self, compiled, clock)
            compiled.resting, compiled.proven = False, True
        except BaseException:
            compiled.remove()
            raise
        finally:
            if not compiled.layers:
                self._compiled = None
        return len(compiled.layers)

    @property
    def records(self) -> bool:
        """Whether steps can be recorded as graphs: on one GPU that holds everything, for rotary factors that do not depend on a session's length."""
        return self._gpu is not None and not self.layout.is_spread and self._scaling is None

    def _capture(self) -> Generator[None, None, int]:
        """Record steps of all spans as graphs, if that can be done and they compute what they should."""
        captured = Captured(self._recorded, CudaRecorder(self.device), self.hidden, self.dtype)
        try:
            if not (yield from prove_captured(self, captured)):
                return 0
        except Exception as error:  # of a family that asks the device something half-way
            log.info("steps cannot be recorded as graphs: %s", str(error).splitlines()[0] if str(error) else repr(error))
            return 0
        self._captured = captured
        return sum(self.layers_of(span) for span in self.spans)

    # --- running --------------------------------------------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def run(self, start: int, stop: int, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Run components [start, stop), any part of what is held, over the rows of several sessions at once, and let their caches grow.

        Returns for each row float32 logits [len(want), V] when the sub-span ends with `head` (`raw` rows: hidden states [len(want), H]), hidden states [n, H]
        otherwise.

        Raises ValueError for rows that do not append exactly to their cache, are empty, or reach beyond the model's length; no cache has changed then.
        """
        self._check(start, stop)
        for row in rows:
            self._check_row(start, stop, row)
        outputs: dict[int, torch.Tensor] = {}
        for (reach, *_), indices in self._alike(rows).items():
            for rotary in self._rotaries:
                rotary.reach = reach
            outputs.update(zip(indices, self._run(start, stop, [rows[i] for i in indices]), strict=True))
        return [outputs[i] for i in range(len(rows))]

    def _run(self, start: int, stop: int, rows: Sequence[Row]) -> list[torch.Tensor]:
        counts = [len(row.tokens) for row in rows]
        wants = [(n - 1,) if row.want is None else row.want for row, n in zip(rows, counts, strict=True)] if stop == self._anatomy.count + 2 else []
        if wants and not any(wants):  # a chunk of a prompt: what the head would compute nobody reads
            if stop - start > 1:
                self._run(start, stop - 1, rows)
            else:
                self._advance(rows, counts)
            return [torch.empty((0, self.hidden if rows[0].raw else self.vocab), device=self.device) for _ in rows]
        view = self._view(start, stop)
        pack = Pack([row.cache for row in rows], [row.start for row in rows], counts, None if self._native is None else self._native.prompts)
        captured = rows[0].cache.captured
        fits = captured is not None and not rows[0].raw and max(counts) <= FEW and view.held and pack.reserve(view.held)
        if captured is not None and fits and captured.takes(start, stop, sum(counts), rows[0].cache):
            out = captured.step(start, stop, pack.caches, pack.starts, [row.tokens for row in rows], self._hidden(rows))
            out = out if (wanted := self._wanted(wants, counts)) is None else out[wanted]
        else:
            positions_1T = self._integers([position for row, n in zip(rows, counts, strict=True) for position in range(row.start, row.start + n)])[None]
            if self._machine is not None and max(counts) <= FEW:
                pack.use(self._machine, view.held)
            raw = bool(wants) and rows[0].raw
            out = self._compute(view, pack, self._given(start, rows), self._wanted(wants, counts), positions_1T, raw)
        self._advance(rows, counts)
        if wants:
            return list((out if rows[0].raw else widened(out)).split([len(want) for want in wants]))
        return [out] if len(rows) == 1 else list(out.split(counts))

    def _compute(self, view: View, pack: Pack, given: torch.Tensor, wanted: torch.Tensor | None, positions_1T: torch.Tensor, raw: bool = False) -> torch.Tensor:
        """[W, V], or where they are `raw` [W, H], or [T, H], in the dtype of the model."""
        self._turn.pack = pack
        if self._compiled is not None:
            self._compiled.begin(pack, view.layers)

        def usual() -> torch.Tensor:
            return view(given, wanted, raw=raw, position_ids=positions_1T)

        try:
            layers = self._compiled if wanted is None and not raw else None
            out = (usual() if layers is None or not layers.takes_shortcuts else view.shortcut.step(layers, usual, given, positions_1T))[0]
        finally:
            self._turn.pack = None
            self._spread.end()
            ran = 0 if self._compiled is None else self._compiled.end()
        if pack.calls + ran != view.held:
            raise UnsupportedModel(
                f"{view.held} layers called for attention {pack.calls} times: some keep their state elsewhere, so they cannot be served; choose another model"
            )
        return out

    def _recorded(self, start: int, stop: int, given: torch.Tensor, positions_1T: torch.Tensor, table: TokenTable) -> torch.Tensor:
        """A step to be recorded: all that it depends on is on the device."""
        assert self._machine is not None
        out = self._compute(self._view(start, stop), Pack.of_table(self._machine, table, given.shape[1]), given, None, positions_1T)
        return out.float() if stop == self.head + 1 else out

    @staticmethod
    def _advance(rows: Sequence[Row], counts: Sequence[int]) -> None:
        for row, n in zip(rows, counts, strict=True):
            row.cache.advance(n)

    def _given(self, start: int, rows: Sequence[Row]) -> torch.Tensor:
        if start == 0:
            return self._integers([token for row in rows for token in row.tokens])[None]
        given = self._hidden(rows)
        return (given[0] if len(given) == 1 else torch.cat(given))[None]

    def _hidden(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """What comes in from the hop before, none where ids do."""
        return [row.hidden.to(device=self.device, dtype=self.dtype) for row in rows if row.hidden is not None]

    def _wanted(self, wants: Sequence[Sequence[int]], counts: Sequence[int]) -> torch.Tensor | None:
        """Which of the T tokens need logits; None for all."""
        if not wants or all(list(want) == list(range(n)) for want, n in zip(wants, counts, strict=True)):
            return None
        indices, at = [], 0
        for want, n in zip(wants, counts, strict=True):
            indices += [at + offset for offset in want]
            at += n
        return self._integers(indices, self.layout.on[self.head])

    def _integers(self, values: list[int], device: str | None = None) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long).to(device or self.device)

    def _alike(self, rows: Sequence[Row]) -> dict[tuple[int, int, int, bool], list[int]]:
        """Rows that may be packed together: their rotary factors are the same, and compiled layers or the same graphs run them (1, 2, …, each of as many tokens
        as those take), or none do (0); and all are raw, or none."""
        groups: dict[tuple[int, int, int, bool], list[int]] = {}
        crowds: Counter[tuple[int, int, int, bool]] = Counter()
        crowd = 1
        for i, row in enumerate(rows):
            n = len(row.tokens)
            reach = 0 if self._scaling is None else self._scaling.reach(max(row.cache.limit or 0, row.start + n))
            fast = (row.cache.compiled or row.cache.captured is not None) and n <= FEW
            graphs = id(row.cache.captured) if fast else 0
            if fast and crowds[reach, crowd, graphs, row.raw] + n > MOST:
                crowd += 1
            group = (reach, crowd if fast else 0, graphs, row.raw)
            crowds[group] += n
            groups.setdefault(group, []).append(i)
        return groups

    def _view(self, start: int, stop: int) -> View:
        view = self._views.pop((start, stop), None) or cut(self._model, self._anatomy, Span(start, stop))
        self._views[start, stop] = view
        if len(self._views) > MOST_VIEWS:
            del self._views[next(iter(self._views))]
        return view

    def _check(self, start: int, stop: int) -> None:
        if not any(span.start <= start < stop <= span.stop for span in self.spans):
            held = ", ".join(f"[{span.start}, {span.stop})" for span in self.spans)
            raise ValueError(f"components [{start}, {stop}) are not held; {held} are")

    def _check_row(self, start: int, stop: int, row: Row) -> None:
        n, cache = len(row.tokens), row.cache
        if (cache.start, cache.stop) != (start, stop):
            raise ValueError(f"a cache of components [{cache.start}, {cache.stop}) cannot serve [{start}, {stop})")
        if row.start != cache.length:
            raise ValueError(f"position {row.start} does not append to a cache of {cache.length} positions")
        if not n:
            raise ValueError("a row without tokens")
        if row.start + n > self.max_length:
            raise ValueError(f"positions up to {row.start + n} are beyond the model's {self.max_length}")
        if start == 0:
            if not all(0 <= token < self.vocab for token in row.tokens):
                raise ValueError(f"token ids must be at least 0 and below {self.vocab}")
        elif row.hidden is None or tuple(row.hidden.shape) != (n, self.hidden):
            shape = None if row.hidden is None else tuple(row.hidden.shape)
            raise ValueError(f"hidden states of shape {shape} where ({n}, {self.hidden}) is needed")
        if row.want is not None and not all(0 <= offset < n for offset in row.want):
            raise ValueError(f"logits are wanted of offsets {list(row.want)} among {n} tokens")


def _read_in_every_step(model: PreTrainedModel, anatomy: Anatomy, layout: Layout) -> Iterator[torch.Tensor]:
    """Tensors of layers and head, each once. Of an embedding a step reads a row, unless it is the head's matrix too; what is to stay on disk stays there."""
    modules = [model.get_submodule(anatomy.layers)]
    if anatomy.count + 1 in layout.on and anatomy.count + 1 not in layout.mapped:
        modules.append(model.get_submodule(anatomy.output))
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _numerics(model: PreTrainedModel, dtype: torch.dtype) -> str:
    method = getattr(getattr(model, "hf_quantizer", None), "quantization_config", None)
    name = str(dtype).removeprefix("torch.")
    return name if method is None else f"{name}-{method.quant_method}"
