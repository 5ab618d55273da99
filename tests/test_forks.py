"""A forked command is in the state in which a started one would be."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from tests.forks import Fork, Nursery, threads_of

COMMAND = [sys.executable, "-P", "-m", "swarm.cli.bootstrap", "--help"]

REPORTS = """
import os, sys
from types import SimpleNamespace
import torch
from tests import forks
torch.set_num_threads(1)
forks.importlib.import_module = lambda _: SimpleNamespace(main=lambda: print(torch.get_num_threads()))
os.chdir("/")
forks._live([os.dup(number) for number in range(3)], ["swarm.cli.serve", *sys.argv[1:]], {"OMP_NUM_THREADS": "2"}, [0, 1, 2], "/")
"""


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_CACHE", "HOME"])
def test_a_command_that_would_read_something_else_when_its_modules_load_is_started(name):
    nursery = Nursery()
    assert nursery.may_fork({**os.environ, "SWARM_CACHE": "/elsewhere", "OMP_NUM_THREADS": "3"})
    assert not nursery.may_fork({**os.environ, name: "/elsewhere"})
    nursery.ask = lambda *_, **__: pytest.fail("it was forked")
    with Fork(nursery, COMMAND, env={**os.environ, name: "/elsewhere"}, stdout=subprocess.PIPE) as process:
        assert b"swarm-bootstrap" in process.stdout.read()


def test_torch_begins_with_as_many_threads_as_if_it_had_been_started():
    assert threads_of(["swarm.cli.serve", "m", "--threads", "3"], {"OMP_NUM_THREADS": "2"}) == threads_of(["swarm.cli.serve", "--threads=3"], {}) == 3
    assert threads_of(["swarm.cli.gateway"], {"OMP_NUM_THREADS": "2"}) == 2
    assert threads_of(["swarm.cli.gateway"], {}) == (psutil.cpu_count(logical=False) or os.cpu_count())


@pytest.mark.parametrize(("arguments", "threads"), [((), "2"), (("--threads", "3"), "3")])
def test_a_forked_command_computes_on_those_threads(arguments, threads):
    said = subprocess.run([sys.executable, "-c", REPORTS, *arguments], capture_output=True, text=True, timeout=120)
    assert said.stdout.strip() == threads, said.stderr
