"""Room: model. Matrix products in machine code made for this very processor: `native.cpp`, compiled by the machine's own C++ compiler when it is first needed
and kept in the cache folder. Knows compilers, files and how to call what they made; not layers, models, or when a product pays (`products.py` measures that).

Without a compiler, or where what it made does not compute what torch does, there is none, and torch's own products serve.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from torch.nn.functional import linear

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native.cpp")
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
    order, whatever other rows there are and however many threads. `int8` is the same for weights of one byte."""

    __name__ = "native"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._products = {torch.float32: library.product_float32, torch.bfloat16: library.product_bfloat16}
        self._int8 = {torch.float32: library.product_int8_float32, torch.bfloat16: library.product_int8_bfloat16}
        for products, pointers in ((self._products, 3), (self._int8, 4)):
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
        product = self._int8[x_TI.dtype]
        (rows, inputs), outputs = x_TI.shape, w_OI.shape[0]
        x_TI, w_OI, scales_O, y_TO = x_TI.contiguous(), w_OI.contiguous(), scales_O.contiguous(), x_TI.new_empty((rows, outputs))
        product(x_TI.data_ptr(), w_OI.data_ptr(), scales_O.data_ptr(), y_TO.data_ptr(), rows, inputs, outputs, torch.get_num_threads())
        return y_TO


def native_product(folder: Path, find: Callable[[str], str | None] = shutil.which) -> NativeProduct | None:
    """Compiled into `folder`, or found there from last time. None, and a line in the log that says why, where that cannot be done."""
    compiler = next((path for name in COMPILERS if (path := find(name))), None)
    if compiler is None:
        log.info("no C++ compiler, so weights are read as fast as torch does it; g++ would make decoding faster")
        return None
    try:
        product = NativeProduct(ctypes.CDLL(str(_compiled(compiler, folder))))
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.info("cannot compile matrix products, so torch's serve: %s", _reason(error))
        return None
    if not agrees(product) or not agrees_in_int8(product.int8):
        log.warning("matrix products compiled by %s give wrong results, so torch's serve", compiler)
        return None
    return product


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


def _compiled(compiler: str, folder: Path) -> Path:
    """Raises OSError, SubprocessError."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=PATIENCE).stdout
    key = sha256(b"\0".join((SOURCE.read_bytes(), version, " ".join(FLAGS).encode(), _processor().encode()))).hexdigest()
    library = folder / f"native-{key[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f"{library.name}.{os.getpid()}"
        try:
            subprocess.run([compiler, *FLAGS, "-o", str(beside), str(SOURCE)], capture_output=True, check=True, timeout=PATIENCE)
            beside.replace(library)
        finally:
            beside.unlink(missing_ok=True)
    return library


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
