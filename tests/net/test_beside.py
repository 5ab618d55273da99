"""Whoever uses hivemind in the process of a peer finds it as its makers left it."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASKED = ("from hivemind.optim import Optimizer", "from hivemind.moe import Server", "from hivemind.averaging import DecentralizedAverager")
FIRST = ("swarm.net", "swarm.net.node")


@pytest.mark.parametrize(
    ("first", "asked"),
    [pytest.param(first, asked, marks=() if (first, asked) == (FIRST[0], ASKED[0]) else pytest.mark.slow) for first in FIRST for asked in ASKED],
)
def test_hivemind_after_ours(first, asked):
    """Of its parts, some need the whole package in the middle of their import: a package that is only half there fails them."""
    script = f"import {first}\n{asked}\nfrom hivemind import *\nimport hivemind\nassert DHT is hivemind.DHT and Optimizer is hivemind.optim.Optimizer"
    subprocess.run([sys.executable, "-P", "-c", script], check=True, timeout=120)
