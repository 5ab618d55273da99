"""A swarm whose peers are far apart, as processes behind the emulator's proxies."""

from __future__ import annotations

import pytest

import swarm
from swarm.errors import UsageError
from swarm.far.line import Distance, Line
from tests.swarm.conftest import LENGTH, PROMPT

NEAR, FAR = 0.002, 0.02

MATRIX = [[0, NEAR, FAR], [NEAR, 0, FAR], [FAR, FAR, 0]]


def test_a_cut_between_two_distant_peers_is_healed_with_the_same_tokens(model, expected):
    with (
        swarm.LocalSwarm(str(model), ["0:3", "3:6", "3:6"], threads=1, links=MATRIX, client_link=Distance(NEAR)) as local,
        swarm.Client(str(model), initial_peers=local.initial_peers) as client,
        client.session() as session,
    ):
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=LENGTH, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 20:
                second = [peer.peer_id for peer in local.peers].index(session.route.hops[1].peer_id)
                local.cut(0, second)
        assert tokens == expected
        assert session.route.reroutes >= 1
        assert session.route.hops[1].peer_id == local.peers[3 - second].peer_id
        assert {addr.split("/")[2] for peer in local.peers for addr in peer.addrs} == {"127.0.1.2", "127.0.1.3", "127.0.1.4"}, "a way around the proxies"
        with pytest.raises(UsageError, match="nothing of peer 3"):
            local.add("0:3")
        with pytest.raises(UsageError, match="no peer 3"):
            local.cut(0, 3)


@pytest.fixture(scope="module")
def distant():
    """The demo model, whose text repeats itself enough for guesses."""
    with swarm.LocalSwarm(str(swarm.demo_model()), ["0:6", "6:12"], dtype="float32", threads=1, links=Distance(FAR)) as local:
        yield local


DRAWN = {"temperature": 1.0, "seed": 6, "top_p": 0.9, "repetition_penalty": 1.1}


@pytest.mark.parametrize("options", [{}, *(pytest.param(options, marks=pytest.mark.slow) for options in ({"temperature": 0.7, "seed": 5}, DRAWN))])
def test_answers_have_the_same_tokens_with_guesses_and_without(distant, options):
    texts = ["Q: sort the words pear apple fox\nA: apple fox pear\nQ: sort the words pear apple fox\nA:", "Once upon a time"]
    answers = []
    for speculate in (False, True):
        with swarm.Client(str(swarm.demo_model()), initial_peers=distant.initial_peers, speculate=speculate, reuse=False) as client:
            answers.append([client.generate(text, max_new_tokens=120, ignore_eos=True, **options) for text in texts])
    assert answers[0] == answers[1] and all(answers[0])


def test_compressed_rows_are_fewer_bytes_and_an_answer(model, monkeypatch):
    """Between peers that say how little they may send."""
    sent, send = [0], Line.send

    def counted(line: Line, size: int, now: float) -> float:
        sent[0] += size
        return send(line, size, now)

    monkeypatch.setattr(Line, "send", counted)
    prompt = [(31 * at + 7) % 256 for at in range(800)]
    with swarm.LocalSwarm(str(model), ["0:3", "3:6"], threads=1, links=Distance(NEAR), arguments=["--max-upload", "100KB"]) as local:
        found = []
        for compress in (False, True):
            with swarm.Client(str(model), initial_peers=local.initial_peers, compress=compress, audit=0) as client:
                before = sent[0]
                found.append((client.generate_tokens(prompt, max_new_tokens=20, ignore_eos=True), sent[0] - before))
    assert [len(tokens) for tokens, _ in found] == [20, 20]
    assert found[0][1] > 800 * 256 and found[1][1] < found[0][1] - 800 * 120, found


def test_what_is_no_matrix_is_said_to_be_none_before_anything_starts(model):
    with pytest.raises(UsageError, match="2 rows of 2"):
        swarm.LocalSwarm(str(model), ["0:3", "3:6"], links=[[0.0, 0.1]])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"links": "near"}, "cannot be 'near'"),
        ({"links": [[0, None], [None, 0]]}, "cannot be None"),
        ({"links": [[0, -1], [-1, 0]]}, "no distance"),
        ({"links": Distance(), "client_link": "near"}, "cannot be 'near'"),
    ],
)
def test_what_is_no_distance_is_said_to_be_none_before_anything_starts(model, wrong, why):
    """In the emulator's thread nobody would hear of it, and nothing would connect."""
    with pytest.raises(UsageError, match=why):
        swarm.LocalSwarm(str(model), ["0:3", "3:6"], **wrong)


def test_a_draft_model_at_the_first_hop_changes_no_token_and_is_announced():
    model, draft = str(swarm.demo_model()), str(swarm.demo.draft_path())
    with swarm.LocalSwarm(model, ["6:12"], dtype="float32", threads=1, links=Distance(FAR)) as local:
        local.add("0:6", arguments=["--draft", draft])
        answers = []
        for speculate in (False, True):
            with swarm.Client(model, initial_peers=local.initial_peers, speculate=speculate, reuse=False) as client:
                answers.append([client.generate("Once upon a time", max_new_tokens=150, temperature=t, seed=1) for t in (0.0, 0.7)])
                views = client._client.table.views
        assert answers[0] == answers[1] and all(answers[0])
        assert [views[peer.peer_id].draft != "" for peer in local.peers] == [False, True]


@pytest.mark.parametrize("own_ends", [False, True])
def test_a_draft_model_of_the_client_changes_no_token(distant, own_ends):
    """Told to the first hop, or used by an own one."""
    model, draft = str(swarm.demo_model()), str(swarm.demo.draft_path())
    answers = []
    for guesses in ({"speculate": False}, {"draft": draft}):
        with swarm.Client(model, initial_peers=distant.initial_peers, own_ends=own_ends, reuse=False, **guesses) as client:
            answers.append(client.generate("Once upon a time", max_new_tokens=100, temperature=0.7, seed=1))
    assert answers[0] == answers[1] and answers[0]
