"""Room: model. Where a checkpoint's files come from: a folder, or the Hugging Face hub. Knows names, sizes and bytes of files; nothing of what is in them but
the header of a safetensors file.

This is the one door to the hub: nobody else asks it, and its errors are translated here.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

from swarm.errors import HubUnreachable, ModelNotFound, NotAModel

Progress = Callable[[float], None]
"""Called with the share done, from 0.0 to 1.0."""

MAX_HEADER = 100 * 2**20
"""The limit of the safetensors library itself; a header beyond it is an attack."""

LINKS = 40
"""From one to the next, as Linux itself follows them: the hub's cache has two, and those in a circle would never end."""

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".onnx_data", ".ot", ".tflite")
_SMALL_SUFFIXES = (".json", ".model", ".txt", ".jinja", ".tiktoken")

_UNREACHABLE: tuple[type[BaseException], ...] = (OSError, errors.HfHubHTTPError.__mro__[1])
"""What a missing connection looks like: the hub's own HTTP error derives from that of the HTTP client it happens to use, which has changed twice."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One line of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Source(Protocol):
    name: str
    unreachable: HubUnreachable | None
    """Why nothing more can be fetched of what the hub has, if so."""

    def files(self) -> dict[str, int]:
        """Bytes of every file at the top of the checkpoint that is here or can be fetched, by name."""

    def small(self) -> Path:
        """A folder with configuration, tokenizer and index, fetched if need be."""

    def header(self, filename: str) -> dict[str, Tensor]:
        """What a safetensors file holds, without its weights."""

    def hash(self, filename: str, progress: Progress | None) -> str:
        """sha256 of a file's bytes, as hexadecimal text. `progress` is called only when it takes reading the file."""

    def fetch(self, filenames: Sequence[str], progress: Progress | None) -> Path:
        """A folder with these files and the small ones. Raises NotAModel where the bytes of one are not those that the hub announces."""


def local_folder(model: str) -> Path | None:
    """The folder by that name, or None where it can only be a hub id. Raises ModelNotFound, NotAModel for what is neither."""
    path = Path(model).expanduser()
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:  # above it is a folder that may not be entered, or the name is longer than names can be
        raise ModelNotFound(
            f"cannot look for a folder {model}: {error.strerror or error}; give a folder with a model, or a hub id like Qwen/Qwen3-8B"
        ) from error
    if is_folder:
        return path
    if is_there:
        raise NotAModel(f"{model} is a file; give the folder that holds config.json and the .safetensors files")
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise ModelNotFound(f"there is no folder {model}; give a folder with a model, or a hub id like Qwen/Qwen3-8B")
    return None


def layers_of(model: str) -> int | None:
    """How many transformer layers a folder's configuration speaks of: known in milliseconds, where opening a model takes seconds. None where only whoever opens
    it can tell: a hub id, no configuration, or one that spells it in the family's own way. Raises ModelNotFound, NotAModel."""
    folder = local_folder(model)
    try:
        layers = None if folder is None else json.loads((folder / "config.json").read_bytes())["num_hidden_layers"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return layers if isinstance(layers, int) else None


def open_source(model: str, token: str | None, cache_dir: str | None) -> Source:
    """A folder if there is one by that name, otherwise the hub, or without a connection what was kept of it.

    Raises ModelNotFound, NotAModel, HubUnreachable.
    """
    if (path := local_folder(model)) is not None:
        return Folder(path)
    try:
        return Hub(model, token, cache_dir)
    except HubUnreachable as error:
        try:
            kept = snapshot_download(model, cache_dir=cache_dir, local_files_only=True)
        except (OSError, errors.EntryNotFoundError):
            kept = None
        if kept is None:
            raise
        return Folder(Path(kept), model, error)


class Folder:
    """A checkpoint in a local folder."""

    def __init__(self, path: Path, name: str | None = None, unreachable: HubUnreachable | None = None) -> None:
        self.path = path.resolve()
        self.name = name or self.path.name
        self.unreachable = unreachable

    def files(self) -> dict[str, int]:
        with _readable(self.path):
            return {entry.name: entry.stat().st_size for entry in sorted(self.path.iterdir()) if entry.is_file()}

    def small(self) -> Path:
        return self.path

    def header(self, filename: str) -> dict[str, Tensor]:
        return read_header(self.path / filename)

    def hash(self, filename: str, progress: Progress | None) -> str:
        return file_hash(self.path / filename, progress)

    def fetch(self, filenames: Sequence[str], progress: Progress | None) -> Path:
        """Files kept of what the hub has are named by their hashes, which are looked at; a folder of somebody's own is what it is."""
        sizes = self.files()
        done, total = 0, sum(sizes.get(name, 0) for name in filenames) or 1
        for name in filenames:
            check_bytes(self.path / name, _named(self.path / name), _stretch(progress, done / total, sizes.get(name, 0) / total))
            done += sizes.get(name, 0)
        if progress:
            progress(1.0)
        return self.path


class Hub:
    """A checkpoint on the Hugging Face hub, held at one commit for as long as this object lives."""

    def __init__(self, repo: str, token: str | None, cache_dir: str | None) -> None:
        self.name = repo
        self.unreachable: HubUnreachable | None = None
        self._token, self._cache_dir = token, cache_dir
        self._api = HfApi(token=token)
        with _translated(repo):
            info = self._api.model_info(repo, files_metadata=True)
        self._commit = info.sha
        files = [file for file in info.siblings or () if "/" not in file.rfilename]
        self._sizes = {file.rfilename: file.size or 0 for file in files}
        self._hashes = {file.rfilename: file.lfs.sha256 for file in files if file.lfs is not None}

    def files(self) -> dict[str, int]:
        return self._sizes

    def small(self) -> Path:
        return self.fetch((), None)

    def header(self, filename: str) -> dict[str, Tensor]:
        with _translated(self.name):
            found = self._api.parse_safetensors_file_metadata(self.name, filename, revision=self._commit)
        return {name: Tensor(tensor.dtype, tuple(tensor.shape), tensor.data_offsets[1] - tensor.data_offsets[0]) for name, tensor in found.tensors.items()}

    def hash(self, filename: str, progress: Progress | None) -> str:
        """The hub's own record of large files, so that nothing has to be fetched to know it."""
        return self._hashes.get(filename) or file_hash(self.fetch([filename], None) / filename, progress)

    def fetch(self, filenames: Sequence[str], progress: Progress | None) -> Path:
        wanted = [name for name in self._sizes if is_small(name)] + list(filenames)
        total, done, folder = sum(self._sizes[name] for name in wanted) or 1, 0, None
        for name in wanted:
            with _translated(self.name):
                folder = hf_hub_download(self.name, name, revision=self._commit, token=self._token, cache_dir=self._cache_dir)
            check_bytes(Path(folder), self._hashes.get(name), _stretch(progress, done / total, self._sizes[name] / total))
            done += self._sizes[name]
            if progress:
                progress(done / total)
        if folder is None:
            raise NotAModel(f"{self.name} on the hub has no config.json; choose a repository in transformers format")
        return Path(folder).parent


def is_small(filename: str) -> bool:
    """Configuration, tokenizer, chat template, index: what a client needs as well."""
    return filename.endswith(_SMALL_SUFFIXES) and not filename.startswith("README")


def is_other_weights(filename: str) -> bool:
    """Weights in a format that is not safetensors."""
    return filename.endswith(_WEIGHT_SUFFIXES) and not filename.endswith(".safetensors") and filename != "training_args.bin"


def headers(source: Source, filenames: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The headers of several files at once: on the hub each is one or two small requests, and a large model has a hundred files."""
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(filenames, pool.map(source.header, filenames), strict=True))


def read_header(path: Path) -> dict[str, Tensor]:
    """The header of a safetensors file. Raises NotAModel when it is cut off, not one, or not to be read."""
    try:
        with _readable(path), path.open("rb") as file:
            there = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                raise ValueError("header too long")
            lines = json.loads(file.read(length))
        lines.pop("__metadata__", None)
        found = {name: _tensor(line) for name, line in lines.items()}
        end = max((line["data_offsets"][1] for line in lines.values()), default=0)
    except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise NotAModel(f"{path} is not a readable safetensors file ({error}); fetch it again") from error
    if there < 8 + length + end:
        raise NotAModel(f"{path} is cut off: {there} bytes of {8 + length + end}; fetch it again")
    return found


def _tensor(line: dict) -> Tensor:
    shape, (begin, end) = line["shape"], line["data_offsets"]
    if not isinstance(line["dtype"], str) or not all(type(number) is int and number >= 0 for number in (*shape, begin, end)) or end < begin:
        raise ValueError("a tensor without a shape or a place")
    return Tensor(line["dtype"], tuple(shape), end - begin)


def file_hash(path: Path, progress: Progress | None = None) -> str:
    """sha256 of a file, remembered: 16 GB take a minute to read. The hub's cache names large files by this very hash, which is believed here; before a file is
    loaded, `check_bytes` looks. Raises NotAModel when it cannot be read.
    """
    return _named(path) or bytes_hash(path, progress)


def _named(path: Path) -> str | None:
    """What the hub's cache says it is: the link in a snapshot leads to a file in `blobs` of that name, which may be a link itself, into a store that all models
    share and that has names of another kind. So the links are followed one at a time."""
    place = path
    with _readable(path):
        for _ in range(LINKS):
            if place.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", place.name):
                return place.name
            if not place.is_symlink():
                break
            place = place.parent / place.readlink()
    return None


def check_bytes(path: Path, announced: str | None, progress: Progress | None = None) -> None:
    """That a file is what is announced of it, if anything is. Downloads are checked by length alone, and a disk or somebody else may have changed them since.

    Raises NotAModel, which names the file at the end of all links: to delete a link of the hub's cache would leave what is damaged, to be linked again.
    """
    if announced is not None and (found := bytes_hash(path, progress)) != announced:
        raise NotAModel(
            f"{path.resolve()} is not the file that the hub announces (sha256 {found[:12]} instead of {announced[:12]}); delete it and fetch it again"
        )


def bytes_hash(path: Path, progress: Progress | None = None) -> str:
    """sha256 of what is really there, remembered by path, size and time of change. Raises NotAModel when it cannot be read."""
    real = path.resolve()
    with _readable(path):
        stat = real.stat()
    key = sha256(f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    memory = cache_folder() / "sha256" / key
    try:
        known = memory.read_text()
        if re.fullmatch(r"[0-9a-f]{64}", known):
            return known
    except OSError:
        pass
    digest = sha256()
    with _readable(path), real.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
            if progress:
                progress(min(file.tell() / stat.st_size, 1.0))
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside = memory.with_name(f"{key}.{os.getpid()}")
        beside.write_text(digest.hexdigest())
        beside.replace(memory)
    except OSError:
        pass  # a home that cannot be written costs time at the next start, no more
    return digest.hexdigest()


def _stretch(progress: Progress | None, before: float, share: float) -> Progress | None:
    return None if progress is None else lambda done: progress(before + share * done)


def cache_folder() -> Path:
    return Path(os.environ.get("SWARM_CACHE") or "~/.cache/swarm").expanduser()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotAModel(f"cannot read {path}: {error.strerror or error}; see that it is there and that its permissions let you read it") from error


@contextmanager
def _translated(repo: str) -> Iterator[None]:
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelNotFound(f"{repo} is gated: accept its terms at https://huggingface.co/{repo}, then set HF_TOKEN or run `hf auth login`") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFound(
            f"there is neither a folder nor a hub model called {repo}; check the spelling, or for a private model set HF_TOKEN or run `hf auth login`"
        ) from error
    except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError) as error:
        raise NotAModel(f"{repo} has a safetensors file that cannot be read ({error}); choose another revision or repository") from error
    except _UNREACHABLE as error:
        raise HubUnreachable(
            f"{repo} is not on this machine, or not all of it, and the hub cannot be reached ({_first_line(error)}); "
            "check the connection and try again, or give a local folder"
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
