"""swarm-status: the picture drawn from announcements that are only written down, and the command over a real swarm in which a peer is killed."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import time
import urllib.request

import pytest
from rich.console import Console

import swarm
from swarm.cli import status
from swarm.cli.picture import pictured, said
from swarm.client.overview import overview_of
from swarm.compose import Contribution, contributions
from swarm.core import readable
from swarm.errors import SwarmError
from swarm.host.notes import FileNotes
from swarm.peer.past import PEER
from tests.cli.test_bad_input import NOBODY
from tests.cli.test_bad_input import said as refused
from tests.client.test_overview import NOW, SHAPE
from tests.client.test_overview import said as announced

ME = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def drawn(seen, contributed=(), width=100, **options) -> str:
    console = Console(width=width, highlight=False, record=True, file=io.StringIO())
    console.print(pictured([seen] if not isinstance(seen, list) else seen, contributed, width, **options))
    return console.export_text()


def test_the_map_shows_holes_thin_places_and_what_is_coming():
    text = drawn(overview_of(SHAPE, [announced("a", (0, 2)), announced("b", (0, 3)), announced("c", (4, 6), state="joining")], NOW))
    assert "\n221×……\n" in text and "missing: 2:4\n" in text and "one peer alone: 1:2" in text
    assert "not served completely" in text and "start a peer with swarm-serve --layers 2:4" in text


def test_a_peer_is_told_with_its_place_its_pace_and_its_room():
    seen = overview_of(SHAPE, [announced(ME, name="ada", region="eu", share=0.5, sessions=3)], NOW, rtts={ME: 0.012})
    (line,) = [line for line in drawn(seen, width=160).splitlines() if "ada" in line]
    for word in ("12D3KooW…", "0:4", "online, slowed to 50%", "bfloat16", "10.00", " 3 ", "80% of 500", "12 ms", "3 s ago", "eu"):
        assert word in line, word


@pytest.mark.parametrize("name", ["[/x]", "[red]ada[/red]", "[link=http://evil.example]ada[/link]", ":smile: \x1b]0;evil\x07", "\u202eada", "n" * 500])
def test_what_strangers_say_of_themselves_is_text_and_moves_no_cursor(name):
    record = announced(ME, name=name, region="eu\x1b[2J", numerics="\x1b[31mfloat32")
    shown = drawn(overview_of(SHAPE, [record], NOW, problems={ME[:-1] + "M": "\x1b[2Jnonsense"}), width=400)
    assert "".join(letter for letter in name if letter.isprintable())[:64] in shown and "n" * 65 not in shown
    assert all(letter.isprintable() for letter in shown.replace("\n", ""))


def test_a_large_model_is_drawn_within_the_width():
    text = drawn(overview_of(SHAPE, [announced("a")], NOW), width=20)
    assert max(len(line) for line in text.splitlines()) <= 20


def test_what_this_machine_gave_is_told_of_who_serves_now_and_of_who_does_not():
    seen = overview_of(SHAPE, [announced(ME)], NOW)
    text = drawn(seen, [Contribution(ME, 7200.0, 12345), Contribution("12D3KooWgone567890123", 3600.0, 5)], width=160)
    assert "has contributed 12,350 tokens in 3.0 hours" in text
    assert "12,345 tokens in 2.0 hours, serving layers 0:4 of m now" in text and "5 tokens in 1.0 hours, not serving" in text
    assert "has not contributed yet" in drawn(seen)


def test_several_models_are_told_apart():
    both = [overview_of(SHAPE, [announced("a")], NOW), overview_of(SHAPE, [], NOW)]
    assert said(both).count("m: ") == 2 and "nobody serves this model" in said(both)


def test_contributions_are_read_from_what_peers_noted(tmp_path, monkeypatch):
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path))
    assert contributions() == []
    notes = FileNotes(tmp_path / "measured")
    notes.write((PEER, "one"), {"uptime": 10.0, "tokens": 5})
    notes.write((PEER, "two"), {"uptime": 3.0, "tokens": 9})
    notes.write(("speed", "of something"), {"read": 1.0})
    (tmp_path / "measured" / "damaged.json").write_text("{")
    assert contributions() == [Contribution("two", 3.0, 9), Contribution("one", 10.0, 5)]


def test_bad_input(capsys):
    assert "no public peers" in refused(capsys, status.main)
    assert "peer address" in refused(capsys, status.main, "--initial-peers", "/ip4/1")
    assert "answered" in refused(capsys, status.main, "--initial-peers", NOBODY, status=1)


def test_a_swarm_that_loses_a_layer(capsys, command, model, cache):
    with swarm.LocalSwarm(model, layers=["0:3", "3:6"]) as local:
        whose = ["--model", model, *(text for addr in local.initial_peers for text in ("--initial-peers", addr))]
        assert status.main(whose) == 0
        assert "served completely" in (out := capsys.readouterr().out) and "not served" not in out
        watching = command("status", *whose, "--watch", "--json", "--every", "0.5")
        assert json.loads(watching.read_until("\n"))["served"] is True
        local.peers[1].kill()
        give_up = time.monotonic() + 60
        while (look := json.loads(watching.read_until("\n")))["served"]:
            assert time.monotonic() < give_up
        assert "layers 3:6 are served by nobody; start a peer with swarm-serve --layers 3:6" in look["sentence"]
        (cover,) = look["models"][0]["covers"]
        assert cover["missing"] == "3:6" and f"about {readable(cover['memory'])}" in look["sentence"]
        watching.signal(signal.SIGINT)
        watched, _, trouble = watching.end()
        assert watched == 1 and "Traceback" not in trouble and "bug" not in trouble, trouble
        assert status.main([*whose, "--json"]) == 1


def test_whoever_watches_is_told_when_the_network_below_has_ended(monkeypatch, capsys):
    class Client:
        def __init__(self, *_: object, **options: object) -> None:
            self.failed = asyncio.get_running_loop().create_future()
            self.failed.set_result(SwarmError("our own libp2p daemon ended"))

        async def __aenter__(self) -> Client:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    looks = iter(range(3))

    async def look(client: Client):
        next(looks)  # and no more of them
        return overview_of(SHAPE, [announced("a")], NOW)

    monkeypatch.setattr("swarm.aio.Client", Client)
    monkeypatch.setattr("swarm.client.overview.overview", look)
    assert "our own libp2p daemon ended" in refused(capsys, status.main, "--initial-peers", NOBODY, "--watch", "--every", "0.5", "--json", status=1)


@pytest.mark.parametrize("given", [["--every", "0"], ["--timeout", "0"], ["--model"]])
def test_options_that_make_no_sense(capsys, given):
    refused(capsys, status.main, *given)


def test_the_page_without_a_gateway(capsys, command, model, local):
    whose = ["--model", model, *(text for addr in local.initial_peers for text in ("--initial-peers", addr))]
    serving = command("status", *whose, "--web", "--port", "0")
    url = re.search(r"http://\S+?/", serving.read_until("Ctrl-C"))[0]
    with urllib.request.urlopen(url, timeout=30) as page:
        assert page.status == 200 and b"<html" in page.read()
    with urllib.request.urlopen(f"{url}swarm.json", timeout=60) as facts:
        seen = json.loads(facts.read())
    assert seen["overview"]["served"] and [peer["layers"] for peer in seen["overview"]["peers"]] == ["0:3", "3:6"]
    serving.signal(signal.SIGINT)
    ended, _, trouble = serving.end()
    assert ended == 0 and "Traceback" not in trouble and "bug" not in trouble, trouble
    assert "one model" in refused(capsys, status.main, *whose, "--model", "another/model", "--web")
