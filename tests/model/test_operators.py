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
from swarm.model.operators import Code, Operators, Stack
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
static float sums[3];
int aoti_torch_create_tensor_from_blob(void*, int64_t, const int64_t*, const int64_t*, int64_t, int32_t, int32_t, int32_t, Handle*);
int AOTInductorModelContainerCreateWithDevice(void** made, size_t, const char*, const char*) { *made = &weight; return 0; }
int AOTInductorModelContainerDelete(void*) { return deleted++, 0; }
int AOTInductorModelContainerGetNumConstants(void*, size_t* count) { *count = 1; return 0; }
int AOTInductorModelContainerGetConstantName(void*, size_t, const char** name) { *name = "w"; return 0; }
int AOTInductorModelContainerGetConstantOriginalFQN(void*, size_t, const char** path) { *path = "layer.w"; return 0; }
int AOTInductorModelContainerUpdateUserManagedConstantBufferPairs(void*, const Pair* pairs, size_t count, bool, bool) {
    weight = pairs[0].handle;
    return count != 1;
}
int aoti_torch_get_data_ptr(Handle, void**);
// Waits for a byte from WAITS if that is a file, fails if it is -2, and gives back the weight; below that, three sums of all inputs and the weight.
int AOTInductorModelContainerRunSingleThreaded(void*, Handle* inputs, size_t count, Handle* outputs, size_t, void*, void*) {
    char byte;
    if (WAITS < -2) {
        float* of[3];
        int64_t* number;
        aoti_torch_get_data_ptr(inputs[0], (void**)&number);
        for (int i = 0; i < 2; i++) aoti_torch_get_data_ptr(inputs[i + 1], (void**)&of[i]);
        aoti_torch_get_data_ptr(weight, (void**)&of[2]);
        for (int i = 0; i < 3; i++) sums[i] = of[0][i] + of[1][i] + of[2][i] + *number;
        const int64_t size = 3, stride = 1;
        for (size_t i = 0; i < count; i++) aoti_torch_delete_tensor_object(inputs[i]);
        return aoti_torch_create_tensor_from_blob(sums, 1, &size, &stride, 0, 6, 0, 0, outputs);
    }
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
    code = Code(library(wait), 0, weights := {"layer.w": torch.arange(3.0)}, operators)
    threading.Timer(0.05, os.write, (go, b"!")).start()
    (made,), failed = Stack([code]).run([torch.zeros(3)])
    assert torch.equal(made, weights["layer.w"]) and not failed
    os.close(wait), os.close(go)


def test_layers_in_turn_are_given_what_the_one_before_gave(library, operators):
    weights = [{"layer.w": torch.arange(3.0) + at} for at in range(3)]
    codes = [Code(library(-3 - at), at, weight, operators) for at, weight in enumerate(weights)]
    # Each gives what it is given + the other input + its weight + its number.
    inputs = [torch.tensor([1.0, 1, 1]), torch.tensor([10.0, 20, 30])]
    results, failed = Stack(codes).run(inputs)
    assert not failed and [result.tolist() for result in results] == [[11, 22, 33], [23, 45, 67], [37, 70, 103]]
    assert inputs[0].tolist() == [1, 1, 1]


def test_a_result_of_another_size_and_a_failure_are_said_and_what_ran_before_counts(library, operators):
    weights = {"layer.w": torch.arange(3.0)}
    code, failing = Code(library(), 0, weights, operators), Code(library(-2), 1, weights, operators)
    assert Stack([code]).run([torch.zeros(4)]) == ((), "the size of its result")
    assert Stack([failing]).run([torch.zeros(3)]) == ((), "running")
    results, failed = Stack([code, failing, code]).run([torch.zeros(3)])
    assert failed == "running" and [result.tolist() for result in results] == [[0, 1, 2]]


def test_what_cannot_be_lent_is_said(library, operators):
    stack = Stack([Code(library(), 0, {"layer.w": torch.arange(3.0)}, operators)])
    for odd in (torch.zeros(3, dtype=torch.complex64), torch.zeros(3, device="meta"), torch.zeros(1, 1, 1, 1, 3)):
        with pytest.raises((KeyError, TypeError)):
            stack.run([odd])
    with pytest.raises(KeyError):
        Code(library(), 0, {"layer.other": torch.zeros(3)}, operators)


def test_weights_go_with_their_layer(library, operators):
    made = library()
    code = Code(made, 0, {"layer.w": (weight := torch.arange(3.0))}, operators)
    Stack([code]).run([torch.zeros(3)])
    gone = weakref.ref(weight)
    del weight, code
    gc.collect()
    assert gone() is None, "the model let go of it, and nobody else held it"
    assert ctypes.CDLL(str(made)).times_deleted() == 1
