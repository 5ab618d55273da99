"""Threads that compute ask Linux for long time slices, and nobody else does."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from swarm.model.native import COMPILERS, native_code
from swarm.model.sources import cache_folder
from swarm.peer.engine import Engine
from swarm.peer.slices import LONG, _Attributes, take_long_slices

GET_ATTRIBUTES = {"x86_64": 315, "aarch64": 275}


def slice_of(thread: int = 0) -> int:
    """Nanoseconds; 0 where the kernel does not say."""
    found = _Attributes()
    number = GET_ATTRIBUTES.get(platform.machine()) if sys.platform == "linux" else None
    if number is not None:
        ctypes.CDLL(None).syscall(number, thread, ctypes.byref(found), ctypes.sizeof(found), 0)
    return found.runtime


pytestmark = pytest.mark.skipif(not slice_of(), reason="this kernel has one slice for all")


def on(pool: ThreadPoolExecutor, act: Callable[[], int]) -> int:
    with pool:
        return pool.submit(act).result(timeout=60)


def test_a_thread_that_computes_has_long_slices_and_so_have_those_it_starts():
    before = slice_of()
    niceness: list[int] = []

    def beside() -> int:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return on(ThreadPoolExecutor(1), slice_of)

    assert on(ThreadPoolExecutor(1, initializer=take_long_slices), slice_of) == LONG
    assert on(ThreadPoolExecutor(1, initializer=take_long_slices), beside) == LONG
    assert slice_of() == before < LONG, "whoever listens keeps its own"
    assert niceness == [os.getpriority(os.PRIO_PROCESS, 0)]


def test_the_thread_of_an_engine_does():
    assert on(Engine(None)._thread, slice_of) == LONG


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler on this machine")
def test_so_do_the_helpers_of_machine_code():
    import torch

    native = native_code(cache_folder())
    assert native is not None
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for _ in range(2000):  # a helper may still be on its way when everything is done without it
            native.product(torch.ones(1, 2048).bfloat16(), torch.ones(2048, 2048).bfloat16())
            if helpers := [thread for thread in os.listdir("/proc/self/task") if slice_of(int(thread)) == LONG]:
                break
    finally:
        torch.set_num_threads(usual)
    assert helpers
