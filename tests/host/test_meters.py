"""What the meters of a machine say: arithmetic on counters that are made up, and one look at the machine the tests run on."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch

from swarm.host import meters
from swarm.host.meters import MachineMeters, processor, processor_temperature, shares
from swarm.model import memory


class Machine:
    """Counters as psutil gives them, of two processors that have run for 100 s."""

    def __init__(self, monkeypatch) -> None:
        self.spent, self.ended, self.busy, self.idle, self.child = 10.0, 0.0, 50.0, 150.0, 3.0
        process = SimpleNamespace(cpu_times=lambda: (self.spent, 0.0, self.ended, 0.0, 0.0), children=self.children)
        monkeypatch.setattr(psutil, "Process", lambda: process)
        monkeypatch.setattr(psutil, "cpu_times", lambda: SystemTimes(self.busy, self.idle))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7))
        monkeypatch.setattr(memory, "own_memory", lambda: 5)

    def children(self, recursive):
        return [SimpleNamespace(cpu_times=lambda: (self.child, 0.0, 0.0, 0.0))] if self.child else []


class SystemTimes(tuple):
    def __new__(cls, busy, idle):
        return super().__new__(cls, (busy, idle, 1.0, 2.0, 4.0))

    user, idle, guest, iowait, steal = (property(lambda self, at=at: self[at]) for at in range(5))


def test_others_use_what_the_machine_spends_and_we_do_not(monkeypatch):
    machine = Machine(monkeypatch)
    read = MachineMeters().read
    machine.spent, machine.child, machine.busy, machine.idle = 12.0, 4.0, 58.0, 162.0
    seen = read()
    assert (seen.ours, seen.others) == (pytest.approx(3 / 20), pytest.approx(5 / 20))
    assert (seen.free, seen.own, seen.host_free) == (7, 5, 7)
    machine.child, machine.ended, machine.busy, machine.idle = 0.0, 4.5, 59.0, 181.0  # a child that has ended is ours all the same
    seen = read()
    assert (seen.ours, seen.others) == (pytest.approx(0.5 / 20), pytest.approx(0.5 / 20))


def test_a_process_that_is_gone_or_hidden_costs_nothing_but_its_figure(monkeypatch):
    machine = Machine(monkeypatch)

    def hidden():
        raise psutil.AccessDenied(1)

    machine.children = lambda recursive: [SimpleNamespace(cpu_times=hidden)]
    psutil.Process().children = machine.children
    read = MachineMeters().read
    machine.busy = 60.0
    assert read().others == pytest.approx(1.0)
    psutil.Process().children = lambda recursive: hidden()
    assert read().ours == 0.0


@pytest.mark.parametrize("now", [(0.0, 0.0, 0.0), (10.0, 20.0, -5.0), (10.0, 3.0, 9.0), (10.0, -3.0, 2.0)])
def test_counters_that_run_late_or_backwards_make_no_nonsense(now):
    others, ours = shares((0.0, 0.0, 0.0), now)
    assert 0 <= others <= 1 and 0 <= ours <= 1 and others + ours <= 1


def sensor(current: float, high: float | None = None) -> SimpleNamespace:
    return SimpleNamespace(current=current, high=high)


@pytest.mark.parametrize(
    "chips, seen",
    [
        ({}, (None, False)),
        ({"nvme": [sensor(60.0)]}, (None, False)),
        ({"acpitz": [sensor(20.0)], "coretemp": [sensor(50.0, 80.0), sensor(61.0, 80.0)]}, (61.0, False)),
        ({"k10temp": [sensor(81.0, 80.0), sensor(50.0, None)]}, (81.0, True)),
        ({"coretemp": [sensor(0.0, 0.0), sensor(-273.0), sensor(4000.0)]}, (None, False)),
        ({"coretemp": [sensor(40.0, 0.0)]}, (40.0, False)),
    ],
)
def test_the_processor_is_as_hot_as_the_hottest_sensor_of_it_that_makes_sense(monkeypatch, chips, seen):
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips, raising=False)
    assert processor_temperature() == seen


def test_a_system_without_sensors_has_no_temperature(monkeypatch):
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)
    assert processor_temperature() == (None, False)


def test_of_a_gpu_what_our_allocator_keeps_is_free_and_a_missing_library_is_no_trouble(monkeypatch):
    """Made up: the tests run where there is no GPU."""

    def missing(device):
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    def broken(device):
        raise RuntimeError("CUDA error")

    figures = {"mem_get_info": (100, 200), "memory_reserved": 50, "memory_allocated": 30, "get_device_name": "a GPU"}
    for name, figure in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, figure=figure: figure)
    monkeypatch.setattr(torch.cuda, "temperature", missing)
    seen = MachineMeters("cuda:0").read()
    assert (seen.free, seen.own, seen.gpu_temperature) == (120, 30, None) and seen.host_free > 1000
    monkeypatch.setattr(torch.cuda, "temperature", lambda device: 55)
    assert MachineMeters("cuda:0").read().gpu_temperature == 55.0 and MachineMeters("cpu").read().gpu_temperature is None
    assert processor("cuda:0") == "a GPU"
    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    assert MachineMeters("cuda:0").read().free == 0 == MachineMeters("cuda:0", "cuda:1").read().free


def test_this_machine_can_be_read():
    reader = meters.MachineMeters()
    sum(range(10**6))
    seen = reader.read()
    assert seen.free == seen.host_free > 0 and seen.own > 10**6 and 0 <= seen.others <= 1 and 0 <= seen.ours <= 1
    assert processor() == processor()
