"""The decoders of strangers' bytes, in a process that may die: a short end of `make fuzz`, so that its figure stands in the table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNS = 300_000


def test_damaged_inputs_of_every_decoder(figure):
    command = [sys.executable, "-m", "tests.fuzz", "--unguided", "--runs", str(RUNS), "--seed", "2"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=600)
    said = ran.stdout.strip().splitlines()[-1:] or [""]
    figure(1, f"{RUNS:,} damaged inputs (make fuzz: ten million)", "0 deaths, 0 hangs", said[0].partition(": ")[2] or f"ended with {ran.returncode}")
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
