"""How compiled layers are run: without Python's lock, with weights that are let go of in the end. The library here only pretends to have been compiled."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
import threading
import weakref

import pytest
import torch

from swarm.model.native import COMPILERS, compiler, native_code
from swarm.model.operators import Code, Operators
from swarm.model.sources import cache_folder

pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler on this machine")

LIBRARY = """
#include <cstddef>
#include <cstdint>
#include <unistd.h>
extern "C" {
using Handle = void*;
int aoti_torch_new_tensor_handle(Handle, Handle*);
int aoti_torch_delete_tensor_object(Handle);
struct Pair { const char* name; Handle handle; };
static Handle weight;
static int deleted;
int AOTInductorModelContainerCreateWithDevice(void** made, size_t, const char*, const char*) { *made = &weight; return 0; }
int AOTInductorModelContainerDelete(void*) { return deleted++, 0; }
int AOTInductorModelContainerGetNumConstants(void*, size_t* count) { *count = 1; return 0; }
int AOTInductorModelContainerGetConstantName(void*, size_t, const char** name) { *name = "w"; return 0; }
int AOTInductorModelContainerGetConstantOriginalFQN(void*, size_t, const char** path) { *path = "layer.w"; return 0; }
int AOTInductorModelContainerUpdateUserManagedConstantBufferPairs(void*, const Pair* pairs, size_t count, bool, bool) {
    weight = pairs[0].handle;
    return count != 1;
}
// Waits for a byte from WAITS if that is a file, fails if it is -2, and gives back the weight.
int AOTInductorModelContainerRunSingleThreaded(void*, Handle* inputs, size_t count, Handle* outputs, size_t, void*, void*) {
    char byte;
    for (size_t i = 0; i < count; i++) aoti_torch_delete_tensor_object(inputs[i]);
    if (WAITS == -2) return 1;
    if (WAITS >= 0 && read(WAITS, &byte, 1) != 1) return 1;
    return aoti_torch_new_tensor_handle(weight, outputs);
}
int times_deleted() { return deleted; }
}
"""


@pytest.fixture
def operators() -> Operators:
    native = native_code(cache_folder())
    assert native is not None
    return Operators(native)


@pytest.fixture
def library(tmp_path):
    def build(waits: int = -1):
        (tmp_path / "fake.cpp").write_text(LIBRARY)
        made = tmp_path / f"fake{waits}.so"
        subprocess.run([compiler(), "-shared", "-fPIC", f"-DWAITS={waits}", str(tmp_path / "fake.cpp"), "-o", str(made)], check=True)
        return made

    return build


def test_whoever_listens_goes_on_while_a_layer_runs(library, operators):
    """The code ends only once another thread of Python has done something: with the lock in hand it would wait for ever."""
    wait, go = os.pipe()
    code = Code(library(wait), weights := {"layer.w": torch.arange(3.0)}, operators)
    threading.Timer(0.05, os.write, (go, b"!")).start()
    assert torch.equal(code.run([torch.zeros(3)], like=torch.zeros(3)), weights["layer.w"])
    os.close(wait), os.close(go)


def test_a_result_of_another_size_and_a_failure_are_errors(library, operators):
    code = Code(library(), weights := {"layer.w": torch.arange(3.0)}, operators)
    with pytest.raises(RuntimeError, match="size"):
        code.run([torch.zeros(3)], like=torch.zeros(4))
    failing = Code(library(-2), weights, operators)
    with pytest.raises(RuntimeError, match="running"):
        failing.run([torch.zeros(3)], like=torch.zeros(3))


def test_what_cannot_be_lent_is_said(library, operators):
    code = Code(library(), weights := {"layer.w": torch.arange(3.0)}, operators)
    for odd in (torch.zeros(3, dtype=torch.complex64), torch.zeros(3, device="meta")):
        with pytest.raises((KeyError, TypeError)):
            code.run([odd], like=weights["layer.w"])
    with pytest.raises(KeyError):
        Code(library(), {"layer.other": torch.zeros(3)}, operators)


def test_weights_go_with_their_layer(library, operators):
    made = library()
    code = Code(made, {"layer.w": (weight := torch.arange(3.0))}, operators)
    code.run([torch.zeros(3)], like=torch.zeros(3))
    gone = weakref.ref(weight)
    del weight, code
    gc.collect()
    assert gone() is None, "the model let go of it, and nobody else held it"
    assert ctypes.CDLL(str(made)).times_deleted() == 1
