"""Nobody honest is banned, however often they are looked at: over dtypes, batches, splits, numbers of threads, and rows that travel compressed. Most of it is
whole nodes on virtual time with a small model's real arithmetic (`company.py`), some hundreds of hops are real processes'."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import swarm
from swarm.core import Span
from swarm.machines import redone
from swarm.model import likeness
from swarm.model.checkpoint import Checkpoint
from tests.attacks.company import Seen, Subject, keep_company, small_model, watched
from tests.swarm.models import save_llama

HOPS, REAL = 10_000, 300

SPLITS = {
    "small": (2 * (Span(0, 3), Span(3, 6)), 2 * (Span(0, 2), Span(2, 4), Span(4, 6)), 2 * (Span(0, 4), Span(2, 6))),
    "demo": (2 * (Span(0, 7), Span(7, 14)), 2 * (Span(0, 4), Span(4, 9), Span(9, 14)), 2 * (Span(0, 10), Span(6, 14))),
}
"""Who holds what: every span twice, so that there is somebody to make it again."""

THREE_EACH = 3 * (Span(0, 3), Span(3, 6))

HALF = {"small": ("0:3", "3:6"), "demo": ("0:6", "6:12")}
"""What real peers are told: of a random model, in which roundings grow from layer to layer as in no trained one, and of the demo model."""

KINDS = (("float32", False), ("bfloat16", False), ("float32", True), ("bfloat16", True))
"""Dtypes, and whether rows travel compressed."""

CROWDS = (1, 4, 16)
"""Clients at once: as many sessions as are computed together at most."""

AT_ONCE = 48
"""Turns of one run of the stage."""


@pytest.fixture(autouse=True)
def _as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    checkpoints = {"small": small_model(tmp_path_factory.mktemp("small")), "demo": Checkpoint.open(str(swarm.demo_model()))}
    return {(name, dtype): Subject.load(name, checkpoint, dtype) for name, checkpoint in checkpoints.items() for dtype in ("float32", "bfloat16")}


@pytest.mark.timeout(3600)
def test_nobody_honest_is_banned_in_ten_thousand_hops(figure, monkeypatch, subjects):
    """Two runs in three with the demo model, whose twelve layers were trained; the others with a random one of four."""
    seen, seed, began = Seen(), 0, time.monotonic()
    watched(seen, monkeypatch)
    while seen.passed < HOPS:
        (dtype, compress), crowd, name = KINDS[seed % 4], CROWDS[seed // 4 % 3], "small" if seed // 12 % 3 == 2 else "demo"
        keep_company(
            subjects[name, dtype], SPLITS[name][seed // 36 % 3], seen, monkeypatch, seed=seed, clients=crowd, turns=AT_ONCE // crowd, compress=compress
        )
        seed += 1
        print(f"{seed} runs: {seen.passed} hops, {sum(seen.compared.values())} compared, {time.monotonic() - began:.0f} s, worst {seen.worst}", flush=True)
    worst = max(seen.worst, key=seen.worst.__getitem__)
    what = f"{seen.passed:,} honest hops, 4 formats, 6 splits, 1 or 2 threads, batches of 1 to {max(seen.sizes)}"
    figure(5, what, "0 bans", f"{len(seen.bans)} bans, {len(seen.doubts)} doubts; at most {seen.worst[worst]:.2f} of what is allowed ({worst})")
    print(seen)
    assert not seen.bans and not seen.doubts and seen.unclear < HOPS / 100
    assert set(seen.compared) == {f"{name} {dtype}{' compressed' * compress}" for name in SPLITS for dtype, compress in KINDS}
    assert {1, 2, 4, 8} <= set(seen.sizes) and set(seen.threads) == {1, 2}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_would_have_been_noticed(monkeypatch, subjects, dtype):
    """Without the tolerance honest peers are banned there, and with it whoever adds a little noise is, and nobody else."""
    seen = Seen()
    watched(seen, monkeypatch)

    def noise(rows: torch.Tensor) -> torch.Tensor:
        return rows + 0.3 * rows.std() * torch.randn_like(rows) if len(rows) else rows

    keep_company(subjects["small", dtype], THREE_EACH, seen, monkeypatch, seed=1, clients=4, turns=6, noise=noise)
    assert set(seen.bans) == {"peer000"}
    seen.bans.clear()
    for name in tuple(likeness.ALLOWED):
        monkeypatch.setitem(likeness.ALLOWED, name, (1e-12, 0.0))
    monkeypatch.setattr(redone, "CARRIED", 0.0)
    keep_company(subjects["small", dtype], THREE_EACH, seen, monkeypatch, seed=1, clients=4, turns=6)
    assert seen.bans


@pytest.mark.parametrize(("dtype", "compress", "times"), [("float32", False, 1000), ("bfloat16", False, 4), ("bfloat16", True, 4)])
def test_where_little_is_usual_referees_show_how_far_a_rounding_is_carried(monkeypatch, subjects, dtype, compress, times):
    """As if models were so many times as loud: then honest work is further apart than usual, and passes all the same."""
    seen, kind = Seen(), f"small {dtype}{' compressed' * compress}"
    watched(seen, monkeypatch)
    for name, (base, each) in list(likeness.ALLOWED.items()):
        monkeypatch.setitem(likeness.ALLOWED, name, (base / times, each / times))
    keep_company(subjects["small", dtype], THREE_EACH, seen, monkeypatch, seed=2, clients=4, turns=6, compress=compress)
    print(seen)
    assert not seen.bans and not seen.doubts and seen.passed > 40 and seen.worst[kind] > 1


@pytest.mark.parametrize(("name", "dtype"), [("small", "float32"), ("small", "bfloat16"), ("demo", "bfloat16")])
def test_nor_among_real_processes(figure, tmp_path, name, dtype):
    """Two of each half on one thread, one on two and with compiled layers; three clients at once."""
    model = save_llama(tmp_path / "llama") if name == "small" else swarm.demo_model()
    with swarm.LocalSwarm(str(model), layers=2 * HALF[name], dtype=dtype, threads=1, arguments=["--compile", "off"]) as local:
        for layers in HALF[name]:
            local.add(layers, arguments=["--threads", "2", "--compile", "wait"])
        with ThreadPoolExecutor(3) as pool:
            passed = sum(pool.map(lambda number: _audited(model, local.initial_peers, dtype, number), range(3)))
    figure(5, f"{passed} honest hops of real processes, {name} {dtype}", "0 bans", "0 bans, 0 doubts")
    assert passed >= REAL // 2


def _audited(model: object, initial_peers: list[str], dtype: str, number: int) -> int:
    with swarm.Client(str(model), initial_peers=initial_peers, dtype=dtype, audit=1.0) as client:
        auditor, count = client._client.auditor, 0
        while auditor.passed < REAL / 6:
            prompt, sampling = [number, *range(20 + count % 30)], {"temperature": float(count % 3 == 2), "seed": count}
            client.generate_tokens(prompt, max_new_tokens=4 + count % 9, ignore_eos=True, **sampling)
            client._loop.call(auditor.settled())
            count += 1
            assert count < REAL, f"of {count} answers only {auditor.passed} hops passed"
        assert not auditor.caught and all(not (record.bans or record.refused or record.odds) for record in auditor.audits._records.values())
        return auditor.passed
