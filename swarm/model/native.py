"""Room: model. Matrix products and attention in machine code made for this very processor: `cpp/`, compiled by the machine's own C++ compiler when it is first
needed and kept in the cache folder. Knows compilers, files and how to call what they made; not layers, models, or when a product pays (`products.py` measures
that).

Without a compiler, or where what it made does not compute what torch does, there is none, and torch's own products and attention serve.

Shapes: T = rows (tokens), I = inputs, O = outputs of a layer; Q = query heads, K = key/value heads, D = width of a query or key head, E = of a value head.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from torch.nn.functional import linear
from torch.nn.functional import scaled_dot_product_attention as sdpa

from swarm.model import int4, prompts
from swarm.model.cache import KVCache

log = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("cpp")
SOURCES = ("products.cpp", "attention.cpp", "prompts.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-pthread", "-shared", "-fPIC")

PATIENCE = 60.0
"""Seconds for the compiler, which takes one where nothing else runs."""

CLOSE = 2**-7
"""How far results may be from torch's, in shares of the largest: a rounding of bfloat16. float32 is far closer."""

TRIED = tuple((rows, inputs, outputs) for rows in (1, 3, 4, 16) for inputs, outputs in ((64, 16), (96, 7), (33, 5)))
"""Shapes that must come out right: tiles that are full and tiles that are not, in every direction."""


class NativeProduct:
    """x_TI, w_OI → y_TO, of float32 or bfloat16 in memory of the CPU; anything else torch multiplies. Sums are in float32, those of a row always in the same
    order, whatever other rows there are and however many threads. `int8` is the same for weights of one byte, `int4` for those of
    half a one (`rounded` has them by name)."""

    __name__ = "native"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._products = {torch.float32: library.product_float32, torch.bfloat16: library.product_bfloat16}
        self._int8 = {torch.float32: library.product_int8_float32, torch.bfloat16: library.product_int8_bfloat16}
        self._int4 = {torch.float32: library.product_int4_float32, torch.bfloat16: library.product_int4_bfloat16}
        self.rounded = {"int8": self.int8, "int4": self.int4}
        for products, pointers in ((self._products, 3), (self._int8, 4), (self._int4, 4)):
            for product in products.values():
                product.argtypes = (*[ctypes.c_void_p] * pointers, *[ctypes.c_long] * 3, ctypes.c_int)
                product.restype = None

    def __call__(self, x_TI: torch.Tensor, w_OI: torch.Tensor) -> torch.Tensor:
        product = self._products.get(w_OI.dtype)
        if product is None or x_TI.dtype != w_OI.dtype or not w_OI.is_contiguous() or w_OI.device.type != "cpu":
            return linear(x_TI, w_OI)
        (rows, inputs), outputs = x_TI.shape, w_OI.shape[0]
        x_TI, y_TO = x_TI.contiguous(), x_TI.new_empty((rows, outputs))
        product(x_TI.data_ptr(), w_OI.data_ptr(), y_TO.data_ptr(), rows, inputs, outputs, torch.get_num_threads())
        return y_TO

    def int8(self, x_TI: torch.Tensor, w_OI: torch.Tensor, scales_O: torch.Tensor) -> torch.Tensor:
        """x_TI of float32 or bfloat16, int8 w_OI, float32 scales_O, all in memory of the CPU → y_TO, of x's dtype. Raises KeyError for other dtypes."""
        return _multiplied(self._int8[x_TI.dtype], x_TI, w_OI, scales_O)

    def int4(self, x_TI: torch.Tensor, w_OB: torch.Tensor, widths_OG: torch.Tensor) -> torch.Tensor:
        """The same of what `int4.rounded` makes of weights."""
        return _multiplied(self._int4[x_TI.dtype], x_TI, w_OB, widths_OG)


def _multiplied(product: Callable[..., None], x_TI: torch.Tensor, weights: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    (rows, inputs), outputs = x_TI.shape, weights.shape[0]
    x_TI, weights, steps, y_TO = x_TI.contiguous(), weights.contiguous(), steps.contiguous(), x_TI.new_empty((rows, outputs))
    product(x_TI.data_ptr(), weights.data_ptr(), steps.data_ptr(), y_TO.data_ptr(), rows, inputs, outputs, torch.get_num_threads())
    return y_TO


class _Session(ctypes.Structure):
    """As in `attention.h`."""

    _fields_ = (("slabs", ctypes.c_void_p), ("start", ctypes.c_int64), ("count", ctypes.c_int64))


class _Attention(ctypes.Structure):
    """As in `attention.h`."""

    _fields_ = (
        ("sessions", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("session_count", "layer")),
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values")),
        *((name, ctypes.c_int64 * 2) for name in ("query_strides", "key_strides", "value_strides")),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("query_heads", "heads", "key_width", "value_width", "window")),
        ("scaling", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("sinks", ctypes.c_void_p),
        ("numbers", ctypes.c_int32),
    )


_NUMBERS = {torch.float32: 0, torch.bfloat16: 1}


class SessionTable:
    """The sessions of one row of tokens as machine code sees them: `counts[i]` positions from `starts[i]` on go into `caches[i]`, which must have room for
    them in every layer. Good until one of the caches grows."""

    __slots__ = ("_kept", "count", "first_layer", "sessions")

    def __init__(self, caches: Sequence[KVCache], starts: Sequence[int], counts: Sequence[int]) -> None:
        self.count, self.first_layer = len(caches), caches[0].first_layer
        slabs = [cache.slabs() for cache in caches]
        self.sessions = (_Session * len(caches))(*(_Session(ctypes.addressof(some), *where) for some, *where in zip(slabs, starts, counts, strict=True)))
        self._kept = slabs


class NativeAttention:
    """Attention of a few new positions of some sessions to all that each may look at, and the new keys and values into the caches. Scores and sums are float32;
    a token's sums are always taken in the same order, whatever other sessions there are and however many threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._attend = library.attend
        self._attend.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._attend.restype = None

    def table(self, caches: Sequence[KVCache], starts: Sequence[int], counts: Sequence[int]) -> SessionTable:
        return SessionTable(caches, starts, counts)

    @staticmethod
    def takes(*tensors: torch.Tensor) -> bool:
        """Whether these queries, keys and values are what it was made for."""
        return tensors[0].dtype in _NUMBERS and all(tensor.dtype == tensors[0].dtype and tensor.device.type == "cpu" for tensor in tensors)

    def __call__(
        self,
        table: SessionTable,
        layer: int,
        q_1QTD: torch.Tensor,
        k_1KTD: torch.Tensor,
        v_1KTE: torch.Tensor,
        scaling: float,
        window: int = 0,
        softcap: float = 0.0,
        sinks_Q: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[1, T, Q, E], of the layer `layer` of the model."""
        q_1QTD, k_1KTD, v_1KTE = (x if x.stride(3) == 1 else x.contiguous() for x in (q_1QTD, k_1KTD, v_1KTE))
        _, heads, tokens, width = q_1QTD.shape
        out_1TQE = q_1QTD.new_empty((1, tokens, heads, v_1KTE.shape[3]))
        sinks_Q = None if sinks_Q is None else sinks_Q.float().contiguous()
        call = _Attention(
            ctypes.addressof(table.sessions),
            table.count,
            layer - table.first_layer,
            *(x.data_ptr() for x in (q_1QTD, k_1KTD, v_1KTE)),
            *((ctypes.c_int64 * 2)(x.stride(2), x.stride(1)) for x in (q_1QTD, k_1KTD, v_1KTE)),
            out_1TQE.data_ptr(),
            heads,
            k_1KTD.shape[1],
            width,
            v_1KTE.shape[3],
            window,
            scaling,
            softcap,
            None if sinks_Q is None else sinks_Q.data_ptr(),
            _NUMBERS[q_1QTD.dtype],
        )
        self._attend(ctypes.addressof(call), torch.get_num_threads())
        return out_1TQE


@dataclass(frozen=True)
class Native:
    """What `compiler` made, at `path`."""

    path: Path
    compiler: str

    @cached_property
    def library(self) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.path))

    def beside(self, name: str, sources: Sequence[str], flags: Sequence[str]) -> Path:
        """Another library, made of `sources` by the same compiler. Raises OSError, SubprocessError."""
        return _compiled(self.compiler, self.path.parent, name, sources, flags)

    @cached_property
    def product(self) -> NativeProduct:
        return NativeProduct(self.library)

    @cached_property
    def attention(self) -> NativeAttention:
        return NativeAttention(self.library)

    @cached_property
    def prompts(self) -> prompts.NativePrompts | None:
        return prompts.NativePrompts.of(self.library)


def compiler(find: Callable[[str], str | None] = shutil.which) -> str | None:
    """This machine's C++ compiler."""
    return next((path for name in COMPILERS if (path := find(name))), None)


def native_code(folder: Path, find: Callable[[str], str | None] = shutil.which) -> Native | None:
    """Compiled into `folder`, or found there from last time. None, and a line in the log that says why, where that cannot be done."""
    by, folder = compiler(find), folder.resolve()
    if by is None:
        log.info("no C++ compiler, so weights are read as fast as torch does it; g++ would make decoding faster")
        return None
    try:
        native = Native(_compiled(by, folder, "native", SOURCES), by)
        product, attention, of_prompts = native.product, native.attention, native.prompts
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.info("cannot compile matrix products and attention, so torch's serve: %s", _reason(error))
        return None
    attend = attends(attention) and (of_prompts is None or prompts.agrees(of_prompts))
    if not agrees(product) or not agrees_in_int8(product.int8) or not agrees_in_int4(product.int4) or not attend:
        log.warning("matrix products and attention compiled by %s give wrong results, so torch's serve", by)
        return None
    return native


@torch.inference_mode()
def agrees(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> bool:
    """Whether it computes what torch does, as far as rounding lets it."""
    dice = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for rows, inputs, outputs in TRIED:
            x_TI, w_OI = (torch.randn(count, inputs, generator=dice).to(dtype) for count in (rows, outputs))
            wanted_TO = linear(x_TI.double(), w_OI.double())
            if not (product(x_TI, w_OI).double() - wanted_TO).abs().max() <= CLOSE * wanted_TO.abs().max():  # not a number is not close
                return False
    return True


@torch.inference_mode()
def agrees_in_int8(product: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> bool:
    """The same of weights of one byte."""
    dice = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for rows, inputs, outputs in TRIED:
            x_TI, w_OI = torch.randn(rows, inputs, generator=dice).to(dtype), torch.randint(-127, 128, (outputs, inputs), generator=dice, dtype=torch.int8)
            scales_O = torch.rand(outputs, generator=dice) + 0.5
            wanted_TO = linear(x_TI.double(), w_OI.double()) * scales_O
            if not (product(x_TI, w_OI, scales_O).double() - wanted_TO).abs().max() <= CLOSE * wanted_TO.abs().max():
                return False
    return True


@torch.inference_mode()
def agrees_in_int4(product: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> bool:
    """The same of weights of half a byte."""
    dice = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for rows, inputs, outputs in TRIED:
            inputs = -(-inputs // int4.GROUP) * int4.GROUP
            x_TI, w_OI = (torch.randn(count, inputs, generator=dice).to(dtype) for count in (rows, outputs))
            w_OB, widths_OG = int4.rounded(w_OI)
            wanted_TO = linear(x_TI.double(), int4.widened(w_OB, widths_OG).double())
            if not (product(x_TI, w_OB, widths_OG).double() - wanted_TO).abs().max() <= CLOSE * wanted_TO.abs().max():
                return False
    return True


@torch.inference_mode()
def attends(attention: NativeAttention) -> bool:
    """Whether it attends as torch does, as far as rounding lets it: two sessions, one of them with a single new token, grouped heads, widths that fill a vector
    and such that do not."""
    dice = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for queries, heads, width, wide in ((6, 2, 64, 64), (3, 3, 20, 9)):
            held, counts = (37, 3), (1, 3)
            caches, wanted = [], []
            q_1QTD, k_1KTD, v_1KTE = (
                torch.randn(1, some, sum(counts), size, generator=dice).to(dtype) for some, size in ((queries, width), (heads, width), (heads, wide))
            )
            for start, here in zip(held, (slice(0, 1), slice(1, 4)), strict=True):
                cache = KVCache(1, 2)
                past_KLD, past_KLE = (torch.randn(heads, start, size, generator=dice).to(dtype) for size in (width, wide))
                cache.write(0, 0, past_KLD, past_KLE)
                cache.advance(start)
                cache.reserve(start + here.stop - here.start, 1)
                caches.append(cache)
                k_KLD, v_KLE = (torch.cat((past, new[0, :, here]), dim=1).double() for past, new in ((past_KLD, k_1KTD), (past_KLE, v_1KTE)))
                seen_nL = torch.ones(here.stop - here.start, k_KLD.shape[1], dtype=torch.bool).tril(start)
                wanted.append(sdpa(q_1QTD[:, :, here].double(), k_KLD[None], v_KLE[None], attn_mask=seen_nL, enable_gqa=True)[0].transpose(0, 1))
            out_1TQE = attention(SessionTable(caches, held, counts), 0, q_1QTD, k_1KTD, v_1KTE, width**-0.5)
            wanted_TQE = torch.cat(wanted)
            if not (out_1TQE[0].double() - wanted_TQE).abs().max() <= CLOSE * wanted_TQE.abs().max():
                return False
    return True


def _compiled(by: str, folder: Path, name: str, sources: Sequence[str], flags: Sequence[str] = ()) -> Path:
    """Raises OSError, SubprocessError."""
    version = subprocess.run([by, "--version"], capture_output=True, check=True, timeout=PATIENCE).stdout
    code = [path.read_bytes() for path in sorted([*FOLDER.glob("*.h"), *(FOLDER / source for source in sources)])]
    key = sha256(b"\0".join((*code, version, " ".join((*FLAGS, *flags)).encode(), torch.__version__.encode(), _processor().encode()))).hexdigest()
    library = folder / f"{name}-{key[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / "compiling"):
            if not library.exists():
                _compile([by, *FLAGS, *(str(FOLDER / source) for source in sources)], flags, library)
    return library


def _compile(command: Sequence[str], flags: Sequence[str], library: Path) -> None:
    beside = library.with_name(f"{library.name}.{os.getpid()}")
    try:
        subprocess.run([*command, *flags, "-o", str(beside)], capture_output=True, check=True, timeout=PATIENCE)
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # what has a name is whole, whatever happens to the machine
        beside.replace(library)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """For what peers that start together on one machine need only once: the others wait for the one that makes it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _processor() -> str:
    """What the code is made for: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(told))])


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    lines = (said.decode(errors="replace") if said else str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
