"""Room: model. How the weights of a part come from files into memory. Knows transformers' loader and its moods, which are translated here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from swarm.errors import NotAModel, SwarmError, UnsupportedModel
from swarm.model.attention import IMPLEMENTATION
from swarm.model.checkpoint import INDEX, SINGLE, Checkpoint
from swarm.model.sources import Progress


def read_part(
    kind: type[PreTrainedModel],
    checkpoint: Checkpoint,
    folder: Path,
    tensors: set[str],
    dtype: torch.dtype,
    progress: Progress | None,
) -> PreTrainedModel:
    """`from_pretrained` on a folder of links to the files that hold `tensors`, since it insists on every file that an index names.

    Raises NotAModel for weights that are missing or do not fit, UnsupportedModel for a package that is not here.
    """
    files = checkpoint.files_for_tensors(tensors)
    with tempfile.TemporaryDirectory(prefix="swarm-") as links, _quietly(progress):
        for file in sorted(set(files.values())):
            (Path(links) / file).symlink_to((folder / file).resolve())
        if set(files.values()) != {SINGLE}:
            (Path(links) / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
        try:
            model, report = cast(Any, kind).from_pretrained(
                links,
                config=checkpoint.config,
                dtype=dtype,
                attn_implementation=IMPLEMENTATION,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                generation_config=GenerationConfig(),  # it would look for one in the folder
                output_loading_info=True,
            )
        except SwarmError:
            raise
        except ImportError as error:
            raise UnsupportedModel(f"{checkpoint.name} needs a package that is not here: {str(error).splitlines()[0]}; install it with pip") from error
        except (RuntimeError, ValueError, OSError, KeyError, SafetensorError) as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise NotAModel(f"the weights of {checkpoint.name} cannot be loaded ({text}); fetch them again, or choose another model") from error
    if missing := sorted(report["missing_keys"]):
        raise NotAModel(f"{checkpoint.name} has no weights for {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}; fetch it again")
    return model.eval()


@contextmanager
def _quietly(progress: Progress | None) -> Iterator[None]:
    """Without transformers' report on the tensors that a part leaves out, and with its progress bar turned into `progress`."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    hook = transformers_logging.set_tqdm_hook(lambda _, args, kwargs: _Counted(progress, *args, **kwargs))
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(hook)
        transformers_logging.set_verbosity(verbosity)
        if progress:
            progress(1.0)


class _Counted(tqdm):
    """A progress bar that is not shown but told."""

    def __init__(self, progress: Progress | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"disable": True}))
        self._progress = progress

    def __iter__(self) -> Iterator[object]:
        total = len(self.iterable) or 1
        for done, item in enumerate(self.iterable, 1):
            yield item
            if self._progress:
                self._progress(done / total)


def share(progress: Progress | None, low: float, high: float) -> Progress | None:
    """A progress whose 0.0 to 1.0 is only the stretch from `low` to `high`."""
    return None if progress is None else lambda done: progress(low + (high - low) * done)
