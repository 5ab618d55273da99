"""Room: peer. How a thread that computes shares its core with those that listen. Knows Linux' scheduler; no models.

A thread that wakes to read a message needs a core for some microseconds, and threads that compute have all of them. How long it waits depends on whose time
slice is shorter: with equal ones it may be a whole one of theirs, some milliseconds, in every process that the message passes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

LONG = 100_000_000
"""Nanoseconds: the longest slice that Linux grants."""

_SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274}
"""The number of `sched_setattr`, by processor."""


class _Attributes(ctypes.Structure):
    """`struct sched_attr` of Linux, in its first version."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("size", "policy")),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("runtime", "deadline", "period")),
    )


def take_long_slices() -> None:
    """Let this thread, and those it starts, compute in long slices: whoever wakes and has had less than its share is let in at once. So it is since Linux 6.12;
    elsewhere this changes nothing. (`swarm/model/cpp/team.h` does the same.)"""
    number = _SET_ATTRIBUTES.get(platform.machine()) if sys.platform == "linux" else None
    if number is not None:
        wanted = _Attributes(size=ctypes.sizeof(_Attributes), nice=os.getpriority(os.PRIO_PROCESS, 0), runtime=LONG)
        ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0)
