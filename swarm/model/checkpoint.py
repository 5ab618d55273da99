"""Room: model. A checkpoint as a peer or a client first meets it: configuration, shape and identity, without reading a weight. Knows files and names of
tensors; how a model computes is `span.py`'s business, where files come from is `sources.py`'s.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from swarm.core import ModelShape, Span, merge_spans
from swarm.errors import DoesNotFit, NotAModel, UnsafeWeights, UnsupportedModel
from swarm.model.families import length_scaling, model_class
from swarm.model.memory import ITEM_SIZE
from swarm.model.names import tensors_of_components
from swarm.model.sources import Progress, Source, Tensor, headers, is_other_weights, open_source

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_VOLATILE = frozenset({"_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype"})
"""What differs between copies of one configuration without changing what the model is. The dtype does change it, and is in the revision through the tensors."""

_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}

_PLAIN = re.compile(r"[^/\\\0]+\.safetensors")
"""Files of weights that an index may name: of this folder, and of no other format."""

NO_LENGTH_LIMIT = 2**20
"""`max_length` of a model that states none: as many tokens as one message may carry."""


class Checkpoint:
    """A model in a folder or on the hub. Opened with `Checkpoint.open`; attributes that need more than the configuration are read when first asked for.

    `name` is the hub id or the folder's name, `config` transformers' configuration, `shape` what planning needs (its `component_bytes` is empty when the
    weights are not known), `dtype` the name of the checkpoint's dtype.
    """

    def __init__(self, source: Source, config: PreTrainedConfig, raw: dict, max_disk: int | None, hashing: Progress | None) -> None:
        self.name, self.config, self._hashing = source.name, config, hashing
        self._source, self._raw, self._max_disk = source, raw, max_disk
        self.model_class = model_class(config, source.name)
        try:
            self._sizes = (config.num_hidden_layers, config.hidden_size, config.vocab_size, kv_width(config))
        except (AttributeError, KeyError, TypeError, NotImplementedError) as error:
            raise UnsupportedModel(f"the configuration of {source.name} states no size that all layers share ({error}), so it cannot be planned for") from error

    @classmethod
    def open(
        cls,
        model: str,
        *,
        token: str | None = None,
        cache_dir: str | None = None,
        max_disk: int | None = None,
        hashing: Progress | None = None,
    ) -> Checkpoint:
        """Open a hub id or a local folder; `max_disk` (bytes) bounds what `fetch` may download. A folder without weights opens too, since a client needs
        none: what does raises. `hashing` is called with 0.0 to 1.0 while `revision` reads every byte of a folder, as it does when it meets one for the
        first time.

        Raises ModelNotFound, HubUnreachable, NotAModel (no or unreadable config.json), UnsupportedModel.
        """
        source = open_source(model, token, cache_dir)
        if "config.json" not in source.files():
            raise source.unreachable or NotAModel(f"{source.name} has no config.json; give a model in transformers format")
        folder = source.small()
        raw = _read_json(folder / "config.json")
        if not isinstance(raw, dict):
            raise NotAModel(f"{folder / 'config.json'} does not hold a model's configuration; give a model in transformers format")
        return cls(source, _read_config(folder, source.name, raw), raw, max_disk, hashing)

    # --- what it is -----------------------------------------------------------------------------------------------------------------------------------

    @cached_property
    def config_hash(self) -> str:
        """sha256 of the configuration file without what differs between copies: the key under which a model's peers are found."""
        return sha256(_canonical(self._raw)).hexdigest()

    @cached_property
    def shape(self) -> ModelShape:
        layers, hidden, vocab, kv = self._sizes
        return ModelShape(
            name=self.name,
            layers=layers,
            hidden=hidden,
            vocab=vocab,
            max_length=getattr(self.config, "max_position_embeddings", None) or NO_LENGTH_LIMIT,
            config_hash=self.config_hash,
            component_bytes=self._component_bytes(),
            kv_bytes_per_token=(0, *([kv * ITEM_SIZE.get(self.dtype, 4)] * layers), 0),
            row_bytes=hidden * ITEM_SIZE.get(self.dtype, 4),
            scaling=length_scaling(self.config),
        )

    @cached_property
    def dtype(self) -> str:
        """The dtype the configuration states, or else that of most of the weights; float32 when neither says."""
        if stated := getattr(self.config, "dtype", None):
            return str(stated).removeprefix("torch.")
        sizes: Counter[str] = Counter()
        if not self._why_no_weights():
            for tensor in self._tensors.values():
                sizes[_DTYPES.get(tensor.dtype, "")] += tensor.nbytes
        sizes.pop("", None)
        return sizes.most_common(1)[0][0] if sizes else "float32"

    @cached_property
    def revision(self) -> str | None:
        """What must be equal for two peers to share a chain: sha256 over configuration, names, dtypes and shapes of tensors, and hashes of the files that
        hold them. None without weights. A hub id and a full copy of it agree.

        Raises NotAModel when only part of the files is here, since nobody can tell what the rest would be.
        """
        if self._why_no_weights():
            return None
        if error := self._why_incomplete():
            raise error
        tensors = sorted((name, tensor.dtype, tensor.shape) for name, tensor in self._tensors.items())
        return sha256(_canonical([self.config_hash, tensors, self._hashes()])).hexdigest()

    def _hashes(self) -> list[tuple[str, str]]:
        """Every file that holds weights, and its sha256."""
        sizes = self._source.files()
        total, before, found = sum(sizes[name] for name in self._weight_files) or 1, 0, []
        for name in self._weight_files:
            heard = partial(_report, self._hashing, before / total, sizes[name] / total) if self._hashing else None
            found.append((name, self._source.hash(name, heard)))
            before += sizes[name]
        return found

    def check_complete(self) -> None:
        """What `revision` needs, before it reads anything. Raises NotAModel, UnsafeWeights, HubUnreachable where only the hub could complete it."""
        self._need_weights()
        if error := self._why_incomplete():
            raise self._source.unreachable or error

    # --- what a span needs ----------------------------------------------------------------------------------------------------------------------------

    def files_for(self, spans: Iterable[Span]) -> list[str]:
        """Names of the safetensors files that hold the weights of `spans`. Raises NotAModel, UnsafeWeights."""
        return sorted({self._file_of[name] for name in self.tensors_for(spans)})

    def download_for(self, spans: Iterable[Span]) -> int:
        """Bytes of the files that hold the weights of `spans`, of which some may be here already."""
        sizes = self._source.files()
        return sum(sizes[name] for name in self.files_for(spans))

    def files_for_tensors(self, tensors: Iterable[str]) -> dict[str, str]:
        """Which file holds each of these tensors."""
        return {name: self._file_of[name] for name in sorted(tensors)}

    def bytes_for(self, spans: Iterable[Span]) -> int:
        """Bytes of the tensors of `spans` as the checkpoint stores them; tied weights count once. Raises NotAModel, UnsafeWeights."""
        return sum(self._tensors[name].nbytes for name in self.tensors_for(spans))

    def tensors_for(self, spans: Iterable[Span]) -> set[str]:
        """Names of the tensors of `spans`. Raises NotAModel when there are none, or when a file that holds one is missing."""
        self._need_weights()
        layers = self._sizes[0]
        owned = tensors_of_components(self._file_of, layers)
        names: set[str] = set()
        for span in merge_spans(spans):
            if span.stop > layers + 2:
                raise ValueError(f"components [{span.start}, {span.stop}) reach beyond the {layers + 2} of {self.name}")
            names.update(*owned[span.start : span.stop])
        missing = sorted({self._file_of[name] for name in names} & set(self._missing_files))
        if missing:
            raise self._source.unreachable or NotAModel(
                f"{self.name} lacks {', '.join(missing)}, which the layers asked for need; copy it there, or name the model by its hub id"
            )
        return names

    def fetch(self, spans: Sequence[Span], progress: Progress | None = None) -> Path:
        """A folder that holds configuration, tokenizer and the files of `spans`, downloaded if need be; what was begun is resumed.

        Raises DoesNotFit beyond `max_disk`, NotAModel, UnsafeWeights, HubUnreachable.
        """
        files = self.files_for(spans)
        sizes = self._source.files()
        need = sum(sizes[name] for name in files)
        if self._max_disk is not None and need > self._max_disk:
            raise DoesNotFit(
                f"the files of these layers of {self.name} take {need / 1e9:.1f} GB of disk, more than the {self._max_disk / 1e9:.1f} GB allowed; "
                "choose fewer layers or raise --max-disk"
            )
        return self._source.fetch(files, progress)

    def small_files(self) -> Path:
        """A folder with configuration and tokenizer, fetched if need be."""
        return self._source.small()

    # --- how it is found out --------------------------------------------------------------------------------------------------------------------------

    def _why_no_weights(self) -> Exception | None:
        files = self._source.files()
        if INDEX in files or SINGLE in files:
            return None
        if other := sorted(name for name in files if is_other_weights(name)):
            return UnsafeWeights(
                f"{self.name} has its weights only as {other[0]}, a format that can run code or that transformers does not read piece by piece; "
                "convert it with safetensors (load it in transformers and call save_pretrained), or choose a repository with .safetensors files"
            )
        return self._source.unreachable or NotAModel(f"{self.name} has no {SINGLE}; give a folder or hub id whose weights are in safetensors format")

    def _why_incomplete(self) -> NotAModel | None:
        if missing := self._missing_files:
            return NotAModel(
                f"{self.name} holds only some of the model's files ({missing[0]} is missing), so what it is cannot be proved to others; "
                "add the missing files, or name the model by its hub id"
            )
        return None

    def _need_weights(self) -> None:
        if error := self._why_no_weights():
            raise error

    @cached_property
    def _file_of(self) -> dict[str, str]:
        """Which file holds each tensor."""
        if INDEX not in self._source.files():
            return dict.fromkeys(self._source.header(SINGLE), SINGLE)
        index = _read_json(self._source.small() / INDEX)
        files = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(files, dict) or not all(isinstance(name, str) and _PLAIN.fullmatch(name) for name in files.values()):
            raise NotAModel(f"{self.name} has a {INDEX} without a list of weights; fetch it again")
        return files

    @cached_property
    def _weight_files(self) -> list[str]:
        return sorted(set(self._file_of.values()))

    @cached_property
    def _missing_files(self) -> list[str]:
        return sorted(set(self._weight_files) - set(self._source.files()))

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        """The tensors whose files are here or can be fetched."""
        here = [name for name in self._weight_files if name not in self._missing_files]
        found: dict[str, Tensor] = {}
        for tensors in headers(self._source, here).values():
            found.update(tensors)
        absent = [name for name, file in self._file_of.items() if file in here and name not in found]
        if absent:
            raise NotAModel(f"{self.name} lists {absent[0]} in its index, but {self._file_of[absent[0]]} does not hold it; fetch both again")
        return found

    def _component_bytes(self) -> tuple[int, ...]:
        """Of every component. A layer whose file is missing is taken to be as large as the largest that is here."""
        if self._why_no_weights():
            return ()
        layers, hidden, vocab, _ = self._sizes
        sizes = []
        for names in tensors_of_components(self._file_of, layers):
            known = [self._tensors[name].nbytes for name in names if name in self._tensors]
            sizes.append(sum(known) if len(known) == len(names) else None)
        largest = max((size for size in sizes[1:-1] if size is not None), default=0)
        matrix = vocab * hidden * ITEM_SIZE.get(self.dtype, 4)
        guesses = [matrix, *([largest] * layers), matrix]
        return tuple(guess if size is None else size for size, guess in zip(sizes, guesses, strict=True))


def kv_width(config: PreTrainedConfig) -> int:
    """Numbers that one layer keeps of one token: keys and values of all its key/value heads."""
    heads = config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):  # DeepSeek's compressed keys and values are cached expanded
        return heads * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if getattr(config, "multi_query", False):
        kv_heads = 1
    return 2 * kv_heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)


def _report(progress: Progress, before: float, share: float, done: float) -> None:
    progress(before + share * done)


def _canonical(value: object) -> bytes:
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key not in _VOLATILE}
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotAModel(f"cannot read {path} ({error}); fetch it again") from error


def _read_config(folder: Path, name: str, raw: dict) -> PreTrainedConfig:
    """The configuration as transformers understands it; its errors are translated here. Code that a repository brings along is never run."""
    family = raw.get("model_type")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each family's configuration class validates in its own way, with whatever exception it likes
        if raw.get("auto_map"):
            raise UnsupportedModel(f"{name} needs code from its repository, which is never run here; choose a model that transformers itself knows") from error
        if not isinstance(family, str):
            raise NotAModel(f"{name} has a config.json that names no model_type; give a model in transformers format") from error
        text = str(error).strip().split("\n")[0]
        raise UnsupportedModel(f"transformers cannot read the configuration of {name}, a {family} ({text}); a newer transformers may know it") from error
