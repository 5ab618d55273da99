"""Room: model. How layers run that torch compiled ahead of time: through C alone, so that Python's lock is free meanwhile and whoever listens to the network is
not kept waiting. Knows libraries and tensors in memory of the CPU; not layers, nor how code is made (`compiling.py`) or when it is used (`compiled.py`).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from swarm.model.native import Native, SessionTable

SOURCES = ("operators.cpp",)

NAMES = {
    "product": "AOTITorchError aoti_torch_cpu_product(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*)",
    "product_int8": "AOTITorchError aoti_torch_cpu_product_int8(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*)",
    "product_int4": "AOTITorchError aoti_torch_cpu_product_int4(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*)",
    "attend": "AOTITorchError aoti_torch_cpu_attend(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, double, int64_t, double, "
    "AtenTensorHandle*, AtenTensorHandle*)",
}
"""Our operators, and the functions that compiled code calls for them (`cpp/operators.cpp`)."""

RANK = 4
"""Dimensions of a tensor that is lent, at most."""

_CODES = {torch.int64: 4, torch.float32: 6, torch.bool: 11, torch.bfloat16: 15, torch.int8: 1, torch.uint8: 0}
"""Dtypes as torch's C interface numbers them."""


class _Lent(ctypes.Structure):
    """As in `cpp/operators.cpp`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * RANK),
        ("strides", ctypes.c_int64 * RANK),
        ("dtype", ctypes.c_int32),
    )


def _lent(tensor: torch.Tensor) -> tuple[object, ...]:
    """Raises KeyError, TypeError for what cannot be lent."""
    if tensor.device.type != "cpu":
        raise TypeError(f"a tensor in memory of {tensor.device}")
    if tensor.dim() > RANK:
        raise TypeError(f"a tensor of {tensor.dim()} dimensions")
    return tensor.data_ptr(), tensor.dim(), tuple(tensor.shape), tensor.stride(), _CODES[tensor.dtype]


class _Layer(ctypes.Structure):
    """As in `cpp/operators.cpp`."""

    _fields_ = (("run", ctypes.c_void_p), ("container", ctypes.c_void_p), ("number", _Lent))


FAILURES = ("", "running", "the size of its result", "memory")
"""As in `cpp/operators.cpp`."""


class _Pair(ctypes.Structure):
    """A weight's name and handle: `AOTInductorConstantMapEntry`."""

    _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))


class Operators:
    """Products and attention as operators of torch, and who runs layers that are compiled to call them."""

    def __init__(self, native: Native) -> None:
        """Compiled beside `native`, or found there; torch registers them once for a process. Raises OSError, SubprocessError."""
        path = next((path for path in torch.ops.loaded_libraries if Path(path).name.startswith("operators-")), None)
        if path is None:
            home = Path(torch.__file__).parent
            flags = ("-I", f"{home}/include", str(native.path), "-L", f"{home}/lib", "-ltorch_cpu", f"-Wl,-rpath,$ORIGIN:{home}/lib")
            path = str(native.beside("operators", SOURCES, flags))
            torch.ops.load_library(path)
        self.library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)  # compiled code finds our functions by their names
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._begin = _function(self.library, "begin_turn", None, pointer, number, number, ctypes.c_int)
        self.lend = _function(self.library, "lend", pointer, pointer)
        self.run = _function(self.library, "run_layers", number, pointer, number, pointer, number, pointer, number, pointer)
        self.take_back = _function(self.library, "aoti_torch_delete_tensor_object", ctypes.c_int, pointer)

    def begin(self, table: SessionTable) -> None:
        """Whose tokens the next row holds: on this thread, until said anew."""
        self._begin(ctypes.addressof(table.sessions), table.count, table.first_layer, torch.get_num_threads())


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = library[name]
    function.restype, function.argtypes = result, arguments
    return function


class Code:
    """The code in one library with the number and the weights of one layer, which are read where they lie: whoever makes it keeps the weights alive.

    The library has the C interface that AOTInductor gives it (torch/csrc/inductor/aoti_runtime/interface.h).
    """

    def __init__(self, path: Path, number: int, weights: Mapping[str, torch.Tensor], operators: Operators) -> None:
        """Raises OSError, AttributeError, KeyError, TypeError, RuntimeError for a library that is not what it should be, or other weights."""
        self._number, self.operators = torch.tensor([number]), operators
        library = ctypes.CDLL(str(path))
        container = ctypes.c_void_p()
        _do(library, "CreateWithDevice", ctypes.byref(container), ctypes.c_size_t(1), b"cpu", None)
        handles: list[int] = []
        weakref.finalize(self, _forget, library, container, handles, operators)
        pairs = []
        for name, tensor in ((name, weights[wanted]) for name, wanted in _names(library, container)):
            handles.append(operators.lend(ctypes.byref(_Lent(*_lent(tensor)))))
            pairs.append(_Pair(name, handles[-1]))
        _do(library, "UpdateUserManagedConstantBufferPairs", container, (_Pair * len(pairs))(*pairs), ctypes.c_size_t(len(pairs)), False, True)
        run = ctypes.cast(library.AOTInductorModelContainerRunSingleThreaded, ctypes.c_void_p)
        self.entry = _Layer(run, container, _Lent(*_lent(self._number)))


class Stack:
    """Some layers that run in turn: each is given what the one before it gave."""

    def __init__(self, codes: Sequence[Code]) -> None:
        self._codes, self._entries = tuple(codes), (_Layer * len(codes))(*(code.entry for code in codes))

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[Sequence[torch.Tensor], str]:
        """What each layer gives, of contiguous inputs: the hidden states that the first is given, and what all are given beside them. Where there are fewer
        results than layers, the next one failed, and how. Raises KeyError, TypeError for inputs that cannot be lent."""
        given = inputs[0]
        lent = (_Lent * len(inputs))(*(_Lent(*_lent(tensor)) for tensor in inputs))
        made, failure = torch.empty((len(self._codes), *given.shape), dtype=given.dtype), ctypes.c_int32()
        run = self._codes[0].operators.run
        count = run(self._entries, len(self._codes), lent, len(lent), made.data_ptr(), given.nbytes, ctypes.byref(failure))
        return made.unbind()[:count], FAILURES[failure.value]


def _names(library: ctypes.CDLL, container: ctypes.c_void_p) -> list[tuple[bytes, str]]:
    """Weights as the code calls them and as the model does."""
    count, found = ctypes.c_size_t(), []
    _do(library, "GetNumConstants", container, ctypes.byref(count))
    for i in range(count.value):
        name, path = ctypes.c_char_p(), ctypes.c_char_p()
        _do(library, "GetConstantName", container, ctypes.c_size_t(i), ctypes.byref(name))
        _do(library, "GetConstantOriginalFQN", container, ctypes.c_size_t(i), ctypes.byref(path))
        found.append((name.value or b"", (path.value or b"").decode()))
    return found


def _do(library: ctypes.CDLL, act: str, *arguments: object) -> None:
    if library[f"AOTInductorModelContainer{act}"](*arguments):
        raise RuntimeError(f"{act} failed")


def _forget(library: ctypes.CDLL, container: ctypes.c_void_p, handles: Sequence[int], operators: Operators) -> None:
    if container:
        library.AOTInductorModelContainerDelete(container)
    for handle in handles:
        operators.take_back(handle)
