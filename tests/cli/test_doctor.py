"""swarm-doctor: what is found is said with what to do, and the command examines this very machine against a real swarm."""

from __future__ import annotations

import json

import pytest

from swarm.cli import doctor, memory, serve
from swarm.cli.findings import FINE, NOTE, TROUBLE, of_clock, of_compiler, of_disk, of_memory, of_port, of_reach, of_speed, verdict
from swarm.cli.part import Fitting
from swarm.cli.wish import Wish
from swarm.core import Span
from swarm.net.reach import Answer, Reach
from tests.cli.test_bad_input import NOBODY, said

GB = 10**9
HERE = "/ip4/203.0.113.5/tcp/31338"
FIRST = "/ip4/198.51.100.1/tcp/31337/p2p/first"


def answer(*results: tuple[str, str], **more) -> Answer:
    return Answer(FIRST, results, more.pop("seen_at", "203.0.113.5"), more.pop("offset", 0.1), more.pop("trip", 0.02), **more)


def one(findings, about: str):
    (found,) = [finding for finding in findings if finding.about == about]
    return found


def test_reached_directly():
    found = of_reach(Reach((HERE,), (answer((HERE, "")), answer((HERE, "timeout")))), 31338)
    assert one(found, "reached").level == FINE and HERE in one(found, "reached").what


def test_not_reached_says_which_port_to_forward_and_what_to_announce():
    found = one(of_reach(Reach((HERE,), (answer((HERE, "no answer in time")),), ""), 31338), "reached")
    assert found.level == TROUBLE and "no answer in time" in found.what and "no relay took it" in found.what
    assert "forward TCP port 31338" in found.do and f"--port 31338 --announce {HERE}" in found.do


def test_what_to_announce_is_an_address_of_its_kind():
    there = one(of_reach(Reach((), (answer(("/ip6/2001:db8::5/tcp/31338", "no answer in time"), seen_at="2001:db8::5"),), ""), 31338), "reached")
    assert "--announce /ip6/2001:db8::5/tcp/31338" in there.do
    nowhere = one(of_reach(Reach((), (answer(seen_at=""),), ""), 31338), "reached")
    assert "--announce /ip4/YOUR-ADDRESS/tcp/31338" in nowhere.do


def test_reached_by_a_relay_alone_is_said_so():
    found = one(of_reach(Reach((HERE,), (answer((HERE, "refused")),), "/ip4/198.51.100.1/tcp/31337/p2p/first/p2p-circuit"), 0), "reached")
    assert found.level == TROUBLE and "only by a relay" in found.what and "forward TCP port PORT" in found.do


def test_an_entrance_that_is_silent_or_too_old():
    silent = of_reach(Reach((), (Answer(FIRST, error="it does not answer (in time)"),)), 0)
    assert [(finding.about, finding.level) for finding in silent] == [("entrance", TROUBLE)] and "firewall" in silent[0].do
    mixed = of_reach(Reach((), (Answer(FIRST, error="it cannot tell (x)"), answer((HERE, "")))), 0)
    assert one([mixed[0]], "entrance").level == NOTE and "updated" in mixed[0].do and one(mixed, "reached").level == FINE
    assert of_reach(Reach((), ()), 0)[0].level == NOTE
    assert one(of_reach(Reach((), (answer((HERE, ""), trip=0.4),)), 0), "entrance").level == NOTE


@pytest.mark.parametrize(
    ("offsets", "level", "word"),
    [((0.4, -0.1), FINE, "within"), ((7.0,), TROUBLE, "7.0 s behind"), ((-9.0, 0.0, -9.1), TROUBLE, "ahead of"), ((900.0, 0.1, 0.2), FINE, "within")],
)
def test_the_clock_is_compared_and_one_liar_does_not_count(offsets, level, word):
    (found,) = of_clock([answer(offset=offset) for offset in offsets])
    assert found.level == level and word in found.what and ("NTP" in found.do) == (level == TROUBLE)
    assert of_clock([Answer(FIRST, error="silent")]) == []


def test_memory_says_how_many_layers_would_fit():
    fit = Fitting((Span(1, 9),), 10 * GB, GB, 8 * GB, 7 * GB)
    assert of_memory(fit, 12 * GB, 36).level == FINE and "about 10 of 36 layers at 1.0 GB" in of_memory(fit, 12 * GB, 36).what
    too_many = of_memory(Fitting((Span(1, 21),), 10 * GB, GB, 20 * GB, 19 * GB), 12 * GB, 36)
    assert too_many.level == TROUBLE and "layers 0:20 do not fit" in too_many.what and "up to 10" in too_many.do
    none = of_memory(Fitting((), GB // 2, GB, 0, 0), GB, 36)
    assert none.level == TROUBLE and "not even one layer fits" in none.what


def test_disk_port_speed_and_compiler():
    assert (
        of_disk(0, GB * 9, None, "/x").level == FINE
        and of_disk(8 * GB, 9 * GB, None, "/x").level == TROUBLE
        and of_disk(3 * GB, 90 * GB, GB, "/x").level == TROUBLE
    )
    assert of_port("0.0.0.0", 0, "").level == NOTE and of_port("127.0.0.1", 0, "").level == of_port("0.0.0.0", 5, "").level == FINE
    assert of_port("0.0.0.0", 5, "port 5 is in use; choose another").do == "choose another"
    assert "at most about 8.0 tokens/s" in of_speed(0.01, 4, 8.0, False).what and of_speed(0.01, 4, None, False).level == NOTE
    assert of_compiler(None).level == NOTE and "g++" in of_compiler(None).do and of_compiler("/usr/bin/c++").level == FINE


def test_the_verdict_names_what_must_be_mended():
    bad = [*of_clock([answer(offset=60)]), of_port("0.0.0.0", 5, "port 5 is in use; choose another")]
    assert verdict(bad) == "mend this before it serves: clock, port" and verdict([of_compiler(None)]) == "this machine can serve"


def test_it_takes_what_serve_takes():
    ours, theirs = ({action.dest for action in module.parser()._actions} for module in (doctor, serve))
    assert ours - theirs == {"json"} and theirs <= ours


def test_this_machine_against_a_real_swarm(capsys, model, local):
    whom = [text for addr in local.initial_peers for text in ("--initial-peers", addr)]
    assert doctor.main([model, "--host", "127.0.0.1", *whom, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["serves"] == "this machine can serve"
    found = {finding["about"]: finding for finding in told["findings"]}
    assert set(found) == {"port", "entrance", "reached", "clock", "memory", "disk", "speed", "compiler"}
    assert "directly, at /ip4/127.0.0.1/tcp/" in found["reached"]["what"] and "tokens/s" in found["speed"]["what"] and "layers 0:6" in found["memory"]["what"]
    taken = local.initial_peers[0].split("/")[4]
    assert doctor.main([model, "--host", "127.0.0.1", "--port", taken, "--layers", "0:3", "--max-memory", "100KB", *whom]) == 1
    out = capsys.readouterr().out
    assert f"port {taken} on 127.0.0.1 is already in use" in out and "layers 0:3 do not fit" in out and "mend this before it serves: port, memory" in out


def test_of_a_gpu_its_own_memory_counts_and_no_speed_is_made_up(monkeypatch, model):
    for module in (doctor, memory):
        monkeypatch.setattr(module, "free_of", lambda wish: {"cuda:0": 6 * GB, "cuda:1": GB})
    wish = Wish(model=model, layers="0:6", dtype=None, device="cpu", cache_tokens=64, max_memory=None, max_disk=None, name="", region="")
    found = doctor._machine(wish, doctor._opened(wish), [])
    assert "7.0 GB are free on cuda:0, cuda:1" in one(found, "memory").what
    assert "not known before it is measured on a GPU" in (speed := one(found, "speed")).what and "tokens/s" not in speed.what and speed.level == NOTE


def test_a_swarm_that_does_not_answer(capsys, model):
    assert doctor.main([model, "--host", "127.0.0.1", "--initial-peers", NOBODY]) == 1
    assert "does not answer" in (out := capsys.readouterr().out) and "mend this before it serves: entrance" in out


def test_bad_input(capsys, model):
    said(capsys, doctor.main, model, "--layers", "0:7")
    said(capsys, doctor.main, model, "--initial-peers", "/ip4/1")
    assert "MODEL" in said(capsys, doctor.main)
