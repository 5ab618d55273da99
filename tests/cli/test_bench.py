"""swarm-bench: what is measured and concluded, from made-up measurements; the load it makes, on virtual time; and once the whole, over real peers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from swarm.cli import bench, serve
from swarm.cli.driving import Driver
from swarm.cli.plots import draw, page, row
from swarm.cli.trials import (
    Figures,
    Load,
    Request,
    Setup,
    best_of,
    figures_of,
    first_loads,
    further_loads,
    open_rates,
    percentiles,
    recommended,
    setups,
)  # fmt: skip
from swarm.core import even_split
from swarm.errors import PeerLost, UsageError
from tests.cli.test_bad_input import said
from tests.net.virtual import run

ONE, TWO, COPIES = Setup("even", ("0:12",), 2), Setup("even", ("0:6", "6:12"), 1), Setup("copies", ("0:12", "0:12"), 1)


def figures(setup: Setup, speed: float, streams: int = 4, failed: int = 0, prompt: int = 16, **load) -> Figures:
    times = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
    return Figures(setup, Load(prompt, 32, **({"streams": streams} | load)), speed, 10, failed, times, times)


def test_every_set_up_is_tried_once():
    found = setups(12, [1, 2, 2], ["even", "copies"], [1, 2], [])
    assert len(found) == len(set(found)) == 6 and Setup("even", ("0:12",), 1, "") in found and Setup("copies", ("0:12", "0:12"), 2, "") in found
    assert [len(each.layers) for each in setups(2, [1, 2, 3], ["even"], [1], [])] == [1, 2], "nobody holds less than a layer"
    assert len(setups(12, [1], ["even"], [1], ["float32", "bfloat16-int8"])) == 2
    assert even_split(12, 5) == ("0:2", "2:5", "5:7", "7:10", "10:12")


def test_loads_are_planned_from_what_is_asked_and_what_was_found():
    assert first_loads([4, 1, 4], [256, 16], 32) == [Load(16, 32, 1), Load(16, 32, 4)]
    best = Load(16, 32, 4)
    assert further_loads(best, [2.0, 1.0], [16, 256]) == [Load(256, 32, 4), Load(16, 32, rate=1.0), Load(16, 32, rate=2.0)]
    assert open_rates(figures(ONE, 64.0)) == [1.0, 1.6, 2.0] and open_rates(figures(ONE, 0.0)) == []


def test_figures_count_what_came_in_time_and_what_failed():
    requests = [Request(0.0, (0.5, 0.6, 0.8)), Request(1.0, (1.25, 9.0)), Request(1.5, (), complete=False), Request(2.0, (), cut=True)]
    found = figures_of(ONE, Load(16, 32, 2), requests, 2.0)
    assert (found.tokens_per_second, found.answers, found.failed) == (2.0, 2, 1)
    assert found.first == {"p50": 250.0, "p95": 500.0, "p99": 500.0} and round(found.between["p50"]) == 200 and found.between["p99"] == 7750.0
    assert percentiles([]) == {} and percentiles(list(range(1, 101))) == {"p50": 50, "p95": 95, "p99": 99}


def test_the_best_makes_the_most_and_of_alike_ones_is_the_simplest():
    assert best_of([figures(ONE, 90), figures(TWO, 100), figures(COPIES, 95)]).setup == TWO
    assert best_of([figures(ONE, 98), figures(TWO, 100)]).setup == ONE, "two peers for two percent are not worth it"
    assert best_of([figures(TWO, 100, failed=1), figures(ONE, 50)]).setup == ONE
    assert best_of([figures(ONE, 40, 1), figures(ONE, 99, 8), figures(ONE, 100, 64)]).load.streams == 8, "more would only wait"
    assert best_of([figures(ONE, 500, streams=0, rate=3.0)]) is None, "an open loop makes what is asked for"
    assert best_of([figures(ONE, 0.0)]) is best_of([]) is None


@pytest.mark.parametrize("setup", [ONE, TWO, COPIES, replace(ONE, dtype="bfloat16-int8")])
def test_what_is_recommended_is_what_serve_takes(tmp_path, setup):
    found = recommended([figures(setup, 100), figures(setup, 90, prompt=256)], "some/model")
    assert len(found.files) == len(setup.layers)
    for at, settings in enumerate(found.files):
        (tmp_path / "peer.yaml").write_text(yaml.safe_dump(dict(settings)))
        args = serve.parser().read(["--config", str(tmp_path / "peer.yaml")])
        assert (args.model, args.layers, args.threads) == ("some/model", setup.layers[at], setup.threads)
        assert args.cache_tokens is None and not args.initial_peers, "of which nothing was measured"
        assert (args.dtype, args.quantize) == (("bfloat16", "int8") if setup.dtype else (None, "none"))


def test_of_a_running_swarm_the_load_is_recommended_and_no_peer():
    found = recommended([figures(Setup("", ()), 40, 1), figures(Setup("", ()), 100, 4)], "some/model")
    assert found.load.streams == 4 and found.files == () and "100.0 tokens/s with 4 answers at once" in found.why and "was not measured" in found.why


def test_it_says_what_the_best_was_better_than():
    assert "the best other set-up (1 peer, 2 threads each) 50.0" in recommended([figures(TWO, 100), figures(ONE, 50)], "m").why
    assert "nothing else was tried" in recommended([figures(TWO, 100)], "m").why and recommended([figures(TWO, 100, failed=1)], "m") is None


class Client:
    """Peers that take 0.1 s to the first token and 0.05 s for each further one, whoever else asks; or that say no."""

    vocab = 100

    def __init__(self, fails: bool = False, slow: float = 1.0) -> None:
        self.fails, self.slow, self.prompts, self.most, self._now = fails, slow, [], 0, 0

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    async def ready_session(self):
        if self.fails:
            raise PeerLost("gone")
        return self

    async def __aenter__(self):
        self._now += 1
        self.most = max(self.most, self._now)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._now -= 1

    async def stream_tokens(self, prompt, *, max_new_tokens, ignore_eos):
        self.prompts.append(tuple(prompt))
        await asyncio.sleep(0.1 * self.slow)
        for at in range(max_new_tokens):
            if at:
                await asyncio.sleep(0.05 * self.slow)
            yield at


def test_a_closed_loop_keeps_so_many_running_and_ends_in_time():
    client = Client()
    requests = run(Driver(client).measure(Load(7, 10, streams=3), 2.0))
    found = figures_of(ONE, Load(7, 10, 3), requests, 2.0)
    assert client.most == 3 and all(request.complete for request in requests)
    assert sum(request.cut for request in requests) == 3 and found.answers == sum(len(request.tokens) == 10 for request in requests) == len(requests) - 3
    assert round(found.first["p50"]) == 100 and round(found.between["p95"]) == 50
    assert 50 <= found.tokens_per_second <= 60 and max(request.tokens[-1] for request in requests if request.tokens) <= 2.06
    assert len(set(client.prompts)) == len(client.prompts) and {len(prompt) for prompt in client.prompts} == {7}


def test_an_open_loop_asks_whether_or_not_others_have_ended():
    client = Client(slow=20.0)
    requests = run(Driver(client, seed=1).measure(Load(7, 10, rate=5.0), 10.0))
    assert 30 <= len(requests) <= 70 and client.most > 10, "as many as are asked for, though each takes eleven seconds"
    assert sorted(request.asked for request in requests)[-1] < 10.0 and all(request.complete for request in requests)
    late = run(Driver(Client(slow=100.0), seed=1).measure(Load(7, 10, rate=5.0), 10.0))
    assert not any(request.complete for request in late), "what takes too long has failed"


def test_failures_are_counted_and_not_repeated_as_fast_as_they_come():
    requests = run(Driver(Client(fails=True)).measure(Load(7, 10, streams=2), 2.0))
    assert requests and not any(request.complete for request in requests) and len(requests) < 100


def test_the_report_is_one_file_and_shows_everything(tmp_path):
    measured = [
        figures(ONE, 40, 1), figures(ONE, 90), figures(TWO, 50, 1), figures(TWO, 110), figures(TWO, 80, prompt=256), figures(TWO, 70, streams=0, rate=1.0),
    ]  # fmt: skip
    plots = draw(measured, tmp_path)
    assert sorted(plot.name for plot in plots) == ["latency.png", "open-loop.png", "prompts.png", "scaling.png", "throughput.png"]
    assert all(plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for plot in plots)
    text = page("<m&m>", {"processor": "<fast>"}, measured, recommended(measured, "m"), {"peer-1.yaml": "model: m\n"}, plots)
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text and "<m&m>" not in text
    assert len(re.findall("data:image/png;base64,", text)) == 5 and base64.b64encode(plots[0].read_bytes()).decode() in text
    for each in measured:
        assert all(f"<td>{cell}</td>" in text for cell in row(each))
    assert "model: m" in text and "110.0 tokens/s with 4 answers at once" in text
    assert draw([], tmp_path) == []


def test_a_machine_without_matplotlib_is_told_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert "--no-plots" in said(capsys, bench.main, "--out", tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--peers", "0"], "range"), (["--peers", "1,x"], "number"), (["--sharding", "evn"], "did you mean even"), (["--dtypes", "float23"], "float32"),
        (["--peers", "13", "--no-plots"], "12 layers"), (["--prompts", "999999", "--no-plots"], "positions"), (["--out", "/proc/no", "--no-plots"], "--out"),
    ],
)  # fmt: skip
def test_bad_input(capsys, tmp_path, given, words):
    out = [] if "--out" in given else ["--out", str(tmp_path)]
    assert words in said(capsys, bench.main, *given, *out)


def test_a_folder_that_takes_no_files_is_refused_before_anything_is_measured():
    with pytest.raises(UsageError, match="cannot write to /proc"):
        bench._folder("/proc")


def test_what_somebody_else_wrote_is_left_alone(tmp_path, monkeypatch):
    measured = [figures(TWO, 100)]
    (tmp_path / "peer-home.yaml").write_text("model: mine\n")
    bench._write(tmp_path, SimpleNamespace(), "m", measured, recommended(measured, "m"), draws=False)
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == ["peer-1.yaml", "peer-2.yaml", "peer-home.yaml"]
    bench._write(tmp_path, SimpleNamespace(), "m", measured, recommended([figures(ONE, 100)], "m"), draws=False)
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == ["peer-1.yaml", "peer-home.yaml"], "of the measurement before, nothing is left"


def test_what_was_measured_before_ctrl_c_is_kept(monkeypatch, tmp_path, capsys):
    async def under(self, setup, loads):
        if self.measured:
            raise asyncio.CancelledError
        self.measured.append(figures(setup, 50))

    monkeypatch.setattr(bench.Bench, "under", under)
    args = bench.parser().read(["--out", str(tmp_path), "--no-plots"])
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(bench._bench(args, tmp_path, None))
    assert len(json.loads((tmp_path / "figures.json").read_text())["measured"]) == 1 and "peer-1.yaml" in capsys.readouterr().out


def test_a_private_swarm_is_asked_as_its_member(monkeypatch):
    args = bench.parser().read(["--initial-peers", "a", "--swarm-key", "k", "--identity", "i"])
    given = {}

    class Stranger:
        def __init__(self, model, **options):
            given.update(options)

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_):
            pass

    monkeypatch.setattr("swarm.aio.Client", Stranger)
    asyncio.run(bench.Bench(args, "m", ("a",), (), lambda *_: None).under(Setup("", ()), lambda: ()))
    assert (given["swarm_key"], given["identity"]) == ("k", "i")


def test_processors_are_those_it_may_use(monkeypatch):
    monkeypatch.setattr(bench.os, "sched_getaffinity", lambda pid: {1, 5, 7}, raising=False)
    assert bench._cores() == 3
    monkeypatch.delattr(bench.os, "sched_getaffinity")
    assert bench._cores() == bench.os.cpu_count()


@pytest.mark.parametrize(("numbers", "flags"), [(2**20, ("--compile", "wait")), (2**19, ())])
def test_peers_are_measured_as_they_are_once_their_layers_are_compiled(monkeypatch, numbers, flags):
    checkpoint = SimpleNamespace(shape=SimpleNamespace(component_bytes=(9 * 2**20, 2 * numbers, 2 * numbers, 9 * 2**20)), dtype="bfloat16")
    assert bench._as_in_the_long_run(checkpoint) == flags
    monkeypatch.setattr("swarm.local.LocalSwarm", lambda *_, **options: options["arguments"])
    assert bench.Bench(SimpleNamespace(), "m", (), flags, print)._start(ONE) == flags


def test_the_whole_over_real_peers(capsys, tmp_path, model):
    quick = ["--peers", "1,2", "--threads", "1", "--concurrency", "1,2", "--prompts", "8,40", "--tokens", "4", "--seconds", "0.5", "--rates", "4"]
    assert bench.main(["--model", model, "--out", str(tmp_path / "out"), *quick]) == 0
    out = capsys.readouterr().out
    whole = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert len(whole["measured"]) == 2 * 2 + 1 + 1 and not any(each["failed"] for each in whole["measured"])
    assert all(each["tokens_per_second"] > 0 for each in whole["measured"] if each["load"]["streams"])
    assert whole["recommended"]["why"] in " ".join(out.split()) and "report.html" in out
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")
    files = sorted((tmp_path / "out").glob("peer-*.yaml"))
    assert len(files) == len(whole["recommended"]["files"]) and all(serve.parser().read(["--config", str(file)]).model == model for file in files)


def test_a_swarm_that_runs(capsys, tmp_path, model, local):
    whom = [text for addr in local.initial_peers for text in ("--initial-peers", addr)]
    quick = ["--concurrency", "1", "--prompts", "8", "--tokens", "4", "--seconds", "0.5", "--rates", "4", "--no-plots"]
    assert bench.main(["--model", model, "--out", str(tmp_path), *whom, *quick]) == 0
    assert not list(tmp_path.glob("peer-*.yaml")) and not list(tmp_path.glob("*.png"))
    assert "the running swarm" in (out := capsys.readouterr().out) and "no settings are written" in " ".join(out.split())
