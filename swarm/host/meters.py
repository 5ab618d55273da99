"""Room: host. What this machine's meters say, by psutil, and by torch where the peer computes on a GPU. Knows the machine; not what becomes of the figures.

What cannot be read on a machine (most have no sensor that a program may read, some let nobody see other processes) is left out, and nothing fails for it.
"""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import psutil

from swarm.ports import Readings

PROCESSOR = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")
"""Sensors that tell how hot the processor is, the most telling first, by the names that Linux has for them."""

SENSIBLE = (1.0, 150.0)
"""Degrees that a processor can have. Sensors that are not there read 0, or something absurd."""


class MachineMeters:
    """Implements `ports.Meters`."""

    def __init__(self, *devices: str) -> None:
        """`devices` are where the peer computes, none for the CPU."""
        self._process, self._gpus = psutil.Process(), [device for device in devices if device.startswith("cuda")]
        self._before = self._times()

    def read(self) -> Readings:
        from swarm.model.memory import gpu_temperature, own_memory

        before, self._before = self._before, self._times()
        others, ours = shares(before, self._before)
        there = psutil.virtual_memory().available
        free, own = self._gpu_memory() if self._gpus else (there, own_memory())
        temperature, hot = processor_temperature()
        warmth = [read for gpu in self._gpus if (read := gpu_temperature(gpu)) is not None]
        return Readings(others, ours, free, own, there, temperature, hot, max(warmth, default=None))

    def _gpu_memory(self) -> tuple[int, int]:
        """Bytes free, as if all GPUs had as little as the fullest one, which is where the next position fails; and ours. One that does not answer has none."""
        from swarm.model.memory import gpu_memory

        try:
            free, own = zip(*map(gpu_memory, self._gpus), strict=True)
            return len(free) * min(free), sum(own)
        except RuntimeError:  # torch's own, for whatever its driver says
            return 0, 0

    def _times(self) -> tuple[float, float, float]:
        """Processor seconds: of the whole machine, of all programs, and of ours: this process and whatever it started, also what has ended since."""
        times = psutil.cpu_times()
        every = sum(times) - sum(getattr(times, name, 0.0) for name in ("guest", "guest_nice"))  # which are counted among the others already
        idle = sum(getattr(times, name, 0.0) for name in ("idle", "iowait", "steal"))
        return every, every - idle, sum(self._spent(process) for process in (self._process, *self._children()))

    def _children(self) -> list[psutil.Process]:
        try:
            return self._process.children(recursive=True)
        except psutil.Error:
            return []

    @staticmethod
    def _spent(process: psutil.Process) -> float:
        with contextlib.suppress(psutil.Error):
            return sum(process.cpu_times()[:4])  # its own, and those of its children that have ended
        return 0.0


def shares(before: tuple[float, float, float], now: tuple[float, float, float]) -> tuple[float, float]:
    """Of all processors, what others used between two readings of `_times`, and what we did. Counters of processes run a little late, and what a child of ours
    spent is counted elsewhere once it has ended; so neither is ever below 0 or, together, above 1."""
    every, busy, ours = (later - earlier for earlier, later in zip(before, now, strict=True))
    if every <= 0:
        return 0.0, 0.0
    mine = min(max(ours / every, 0.0), 1.0)
    return min(max((busy - ours) / every, 0.0), 1.0 - mine), mine


def processor_temperature() -> tuple[float | None, bool]:
    """Degrees of the hottest sensor of the processor, None where there is none, and whether one is at what it calls high itself."""
    try:
        chips = psutil.sensors_temperatures()
    except (AttributeError, OSError, ValueError, RuntimeError):  # a system that has no such thing, or a driver that fails
        return None, False
    for chip in PROCESSOR:
        found = [sensor for sensor in chips.get(chip, ()) if SENSIBLE[0] <= sensor.current <= SENSIBLE[1]]
        if found:
            return max(sensor.current for sensor in found), any(sensor.high and sensor.current >= sensor.high > SENSIBLE[0] for sensor in found)
    return None, False


def processor(device: str = "cpu") -> str:
    """What computes: a name, and how many there are of it."""
    if device.startswith("cuda"):
        from swarm.model.memory import gpu_name

        return gpu_name(device)
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    told = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {told[0] if told else platform.processor()} × {psutil.cpu_count() or 1}"
