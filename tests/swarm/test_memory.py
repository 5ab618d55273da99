"""What a peer takes of its machine's memory, and what it does when more is wanted than there is. Real processes, real weights."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import pytest

import swarm
from swarm.errors import Refused
from tests.swarm.models import save_llama

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

MB = 2**20
ALLOWED = 150 * MB
"""Above weights and cache."""

BARE = """
import swarm.cli.serve, swarm.compose, swarm.net.node, swarm.peer.engine
from swarm.model.span import SpanModel
print(open('/proc/self/status').read())
"""


def status_of(pid: int | None, text: str = "") -> Callable[[str], int]:
    """Bytes by name, such as VmRSS (resident) and VmHWM (the most that ever was)."""
    lines = (text or open(f"/proc/{pid}/status").read()).splitlines()
    found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines) if name.startswith("Vm")}
    return found.__getitem__


def at_once(count: int, act: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(act, range(count)))


def prompt(seed: int, count: int) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(250) for _ in range(count)]


def test_a_peer_takes_what_it_announced_and_little_more(started, tmp_path):
    """Weights and a cache that is full to the last position."""
    model = save_llama(tmp_path / "model", hidden=512, layers=8, positions=1024)
    bare = status_of(None, subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True).stdout)("VmRSS")
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    positions, position = 4096, 8 * 2 * 256 * 4 + 512 * 4
    with swarm.LocalSwarm(str(model), ["0:8"], threads=1, arguments=["--compile", "off", "--cache-tokens", str(positions)]) as local:
        with ExitStack() as stack:
            lengths: list[int] = []
            clients = [stack.enter_context(swarm.Client(str(model), initial_peers=local.initial_peers)) for _ in range(4)]
            sessions = [client.session() for client in clients]
            at_once(4, lambda number: lengths.append(len(list(sessions[number].stream_tokens(prompt(number, 1000), max_new_tokens=24, ignore_eos=True)))))
            assert lengths == [24] * 4
            now = status_of(local.peers[0].pid)
            assert now("VmRSS") > bare + 4 * 1000 * position, "the caches are there"
            assert now("VmHWM") - bare <= weights + positions * position + ALLOWED


@pytest.mark.parametrize("count", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_sessions_that_are_over_leave_nothing_behind(tmp_path, count):
    """Half of them are broken off."""
    model = save_llama(tmp_path / "model", layers=4, positions=512)
    with swarm.LocalSwarm(str(model), ["0:4"], threads=1, arguments=["--compile", "off", "--cache-tokens", "8192"]) as local:
        resident = lambda: status_of(local.peers[0].pid)("VmRSS")  # noqa: E731

        def burst(count: int) -> None:
            with swarm.Client(str(model), initial_peers=local.initial_peers) as client:

                def some(worker: int) -> None:
                    for number in range(worker, count, 4):
                        with client.session() as session:
                            for token, _ in enumerate(session.stream_tokens(prompt(number, 5 + 97 * number % 300), max_new_tokens=8, ignore_eos=True)):
                                if number % 2 and token == 2:
                                    break

                at_once(4, some)

        burst(40)
        _settle(resident)
        before = resident()
        burst(count)
        _settle(resident)
        assert resident() <= 1.03 * before


def _settle(resident: Callable[[], int]) -> None:
    """Until memory has been given back: what is freed goes when nothing is computed."""
    last, end = 0, time.monotonic() + 10
    while (now := resident()) != last and time.monotonic() < end:
        last = now
        time.sleep(0.5)


def test_ten_times_more_sessions_than_fit_are_served_or_told_when_to_come_again(tmp_path):
    model, fit, length = save_llama(tmp_path / "model"), 4, 64
    told: Counter[str] = Counter()
    with swarm.LocalSwarm(str(model), ["0:3", "3:6"], threads=1, arguments=["--compile", "off", "--cache-tokens", str(fit * length)]) as local:
        clients = [swarm.Client(str(model), initial_peers=local.initial_peers, patience=3) for _ in range(8)]
        try:

            def ask(number: int) -> None:
                try:
                    answer = clients[number % len(clients)].generate_tokens(prompt(number, length // 2), max_new_tokens=length // 2, ignore_eos=True)
                    told["whole" if len(answer) == length // 2 else "cut"] += 1
                except Refused as error:
                    told["again" if error.reason == "overloaded" and "try again in" in str(error) else str(error)] += 1

            at_once(10 * fit, ask)
            assert set(told) <= {"whole", "again"} and told["whole"] >= 2 * fit and sum(told.values()) == 10 * fit, told
            assert all(peer.is_alive() for peer in local.peers) and not any(map(_was_killed, local.peers))
            assert len(clients[0].generate_tokens(prompt(1, 20), max_new_tokens=20, ignore_eos=True)) == 20, "there is room again"
        finally:
            for client in clients:
                client.close()


def _was_killed(peer: swarm.LocalPeer) -> bool:
    return psutil.Process(peer.pid).status() == psutil.STATUS_ZOMBIE
