"""A real swarm on loopback answers: real processes, real DHT, real weights files. The same tokens as transformers in one process, whatever the split."""

from __future__ import annotations

import threading

import pytest

import swarm
from swarm.client import aio
from swarm.errors import Closed, EmptyPrompt, InvalidSampling, MissingLayers, NoBootstrap, PromptTooLong, TimedOut, UsageError
from swarm.wire import Step
from tests.swarm.models import EOS, greedy, save_llama

PROMPT = [72, 101, 108, 108, 111]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def local(model):
    with swarm.LocalSwarm(str(model), layers=["0:2", "2:4", "4:6"]) as local:
        yield local


@pytest.fixture(scope="module")
def client(model, local):
    with swarm.Client(str(model), initial_peers=local.initial_peers) as client:
        yield client


def test_greedy_tokens_are_those_of_one_process(model, client):
    assert client.generate_tokens(PROMPT, max_new_tokens=64, ignore_eos=True) == greedy(model, PROMPT, 64)


def test_a_prompt_longer_than_a_chunk_gives_the_same_too(model, client):
    prompt = [(7 * at + at * at) % 256 for at in range(600)]
    assert client.generate_tokens(prompt, max_new_tokens=16, ignore_eos=True) == greedy(model, prompt, 16)


def test_turns_of_a_session_continue_each_other(model, client):
    with client.session() as session:
        first = list(session.stream_tokens(PROMPT, max_new_tokens=10, ignore_eos=True))
        second = list(session.stream_tokens([1, 2, 3], max_new_tokens=10, ignore_eos=True))
        assert session.tokens == (*PROMPT, *first, 1, 2, 3, *second)
    assert second == greedy(model, [*PROMPT, *first, 1, 2, 3], 10)


@pytest.mark.parametrize(("shared", "own"), [(120, 30), (60, 30), (119, 0)], ids=["goes on", "a part of it", "the same again"])
def test_a_session_that_begins_as_an_earlier_one_gets_the_same_answer_for_less(model, local, monkeypatch, shared, own):
    """The client feeds the first hop what that does not hold, and nothing else; each hop has taken over, or copied, what it had."""
    fed: list[tuple[bytes, int]] = []
    send = aio.Client.send

    def noted(self, peer, message):
        if isinstance(message, Step):
            fed.append((message.session, message.start))
        send(self, peer, message)

    monkeypatch.setattr(aio.Client, "send", noted)
    first = [(7 * at + at * at) % 256 for at in range(120)]
    prompt = [*first[:shared], *range(own)] if own else first
    with swarm.Client(str(model), initial_peers=local.initial_peers) as client:
        assert client.generate_tokens(first, max_new_tokens=10, ignore_eos=True) == greedy(model, first, 10)
        assert client.generate_tokens(prompt, max_new_tokens=20, ignore_eos=True) == greedy(model, prompt, 20)
    sessions = list(dict.fromkeys(session for session, _ in fed))
    starts = [min(start for session, start in fed if session == one) for one in sessions]
    assert starts[0] == 0 and shared <= starts[1] < len(prompt)


def test_a_turn_left_early_keeps_what_was_taken(model, client):
    with client.session() as session:
        tokens = []
        for token in session.stream_tokens(PROMPT, max_new_tokens=200, ignore_eos=True):
            tokens.append(token)
            if len(tokens) == 7:
                break
        assert session.tokens == (*PROMPT, *tokens)
        more = list(session.stream_tokens([9], max_new_tokens=5, ignore_eos=True))
    assert more == greedy(model, [*PROMPT, *tokens, 9], 5)


def test_a_seed_gives_one_answer_and_another_seed_another(client):
    options = dict(max_new_tokens=40, temperature=1.0, top_k=50, top_p=0.95, min_p=0.01, repetition_penalty=1.1, ignore_eos=True)
    first = client.generate_tokens(PROMPT, seed=1, **options)
    assert first == client.generate_tokens(PROMPT, seed=1, **options)
    assert first != client.generate_tokens(PROMPT, seed=2, **options)


def test_sessions_at_once_each_get_their_own_answer(model, client):
    prompts = [[at, at + 1, at + 2] for at in range(0, 80, 10)]
    answers: dict[int, list[int]] = {}

    def ask(at: int) -> None:
        answers[at] = client.generate_tokens(prompts[at], max_new_tokens=24, ignore_eos=True)

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {at: greedy(model, prompt, 24) for at, prompt in enumerate(prompts)}


def test_a_client_that_keeps_its_own_ends_gets_the_same_tokens(model, local):
    with swarm.Client(str(model), initial_peers=local.initial_peers, own_ends=True) as client:
        with client.session() as session:
            tokens = list(session.stream_tokens(PROMPT, max_new_tokens=32, ignore_eos=True))
            hops = session.route.hops
    assert tokens == greedy(model, PROMPT, 32)
    assert hops[0].layers == "embed" and hops[-1].layers == "head" and hops[0].peer_id == hops[-1].peer_id


def test_text_streams_in_pieces_and_stops_at_a_stop_string(client):
    whole = client.generate("Hello", max_new_tokens=60, ignore_eos=True)
    assert "".join(client.stream("Hello", max_new_tokens=60, ignore_eos=True)) == whole
    stop = whole[20:23]
    assert client.generate("Hello", max_new_tokens=60, ignore_eos=True, stop=[stop]) == whole[: whole.index(stop)]


def test_a_stop_token_ends_the_answer_and_is_not_text(model, client):
    tokens = greedy(model, PROMPT, 30)
    got = client.generate_tokens(PROMPT, max_new_tokens=30, stop_ids=[tokens[12]])
    assert got == tokens[: tokens.index(tokens[12]) + 1]


def test_log_probabilities_come_on_request(client):
    with client.session() as session:
        details = list(session.stream_details(PROMPT, max_new_tokens=3, logprobs=4, ignore_eos=True))
    for token in details:
        assert token.logprobs is not None and len(token.logprobs.top) == 4
        assert token.logprobs.top[0] == (token.id, pytest.approx(token.logprobs.drawn))
    assert [token.finish for token in details] == [None, None, "length"]


def test_the_route_says_who_did_what(client, local):
    with client.session() as session:
        with pytest.raises(UsageError, match="no route yet"):
            _ = session.route
        list(session.stream_tokens(PROMPT, max_new_tokens=8, ignore_eos=True))
        route = session.route
    assert [hop.layers for hop in route.hops] == ["0:2", "2:4", "4:6"]
    assert {hop.peer_id for hop in route.hops} == {peer.peer_id for peer in local.peers}
    assert all(hop.measured and hop.milliseconds > 0 for hop in route.hops)
    assert "layers 2:4" in route.explain() and "tokens/s" in route.explain()


@pytest.mark.parametrize(
    "error, options",
    [
        (EmptyPrompt, dict(tokens=[])),
        (PromptTooLong, dict(tokens=[1] * 1024)),
        (PromptTooLong, dict(tokens=[1], max_new_tokens=1024)),
        (UsageError, dict(tokens=[1], max_new_tokens=0)),
        (InvalidSampling, dict(tokens=[1], temperature=-1.0)),
        (InvalidSampling, dict(tokens=[1], top_p=0.0)),
        (InvalidSampling, dict(tokens=[1], temperature=float("nan"))),
    ],
)
def test_bad_input_is_one_clear_error(client, error, options):
    with pytest.raises(error):
        client.generate_tokens(**options)


def test_an_answer_may_be_given_a_time(client):
    with pytest.raises(TimedOut) as caught:
        client.generate_tokens(PROMPT, max_new_tokens=900, ignore_eos=True, timeout=0.2)
    assert caught.value.exit_status == 1


def test_peers_of_another_revision_never_join_the_chain(tmp_path, local):
    other = save_llama(tmp_path / "other", seed=1)
    with swarm.Client(str(other), initial_peers=local.initial_peers, patience=1) as client:
        with pytest.raises(UsageError, match="another revision"):
            client.generate_tokens(PROMPT, max_new_tokens=4)


def test_layers_that_nobody_serves_are_named(tmp_path, local):
    deeper = save_llama(tmp_path / "deeper", layers=7)
    with swarm.Client(str(deeper), initial_peers=local.initial_peers, patience=1) as client:
        with pytest.raises(MissingLayers, match="0:7"):
            client.generate_tokens(PROMPT, max_new_tokens=4)


def test_an_entrance_that_does_not_answer_is_said_so(model):
    with pytest.raises(NoBootstrap):
        swarm.Client(str(model), initial_peers=["/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"])


def test_eos_is_where_an_answer_ends(model, client):
    assert EOS in client._client.eos


def test_a_decoded_token_costs_its_client_ids_and_frame_headers_only(client, monkeypatch):
    """Everything that crosses the client's links in the middle of an answer: under 1 kB for each token, and no activations."""
    from swarm import wire
    from swarm.net.frames import HEADER_SIZE

    links, crossed = client._client._connection.links, []
    send, receive = links.send, links._receive

    def count(pass_on):
        def counted(peer, message):
            crossed.append((message, len(wire.encode(message)) + HEADER_SIZE))
            pass_on(peer, message)

        return counted

    monkeypatch.setattr(links, "send", count(send))
    monkeypatch.setattr(links, "_receive", count(receive))
    with client.session() as session:
        for at, _ in enumerate(session.stream_tokens(PROMPT, max_new_tokens=300, ignore_eos=True)):
            if at == 50:
                crossed.clear()
        ordinary = [size for message, size in crossed if isinstance(message, wire.Drawn | wire.Grant | wire.Keep | wire.Have)]
        drawn = sum(isinstance(message, wire.Drawn) for message, _ in crossed)
        assert drawn > 150 and sum(ordinary) / drawn < 100
        assert sum(size for _, size in crossed) / drawn < 1000  # where a hop seemed slow, another route was asked for: once, not for each token
        assert not any(isinstance(getattr(message, field), wire.Blob) for message, _ in crossed for field in message.__struct_fields__)


def test_closing_a_session_ends_the_answer_that_is_under_way(client):
    session = client.session()
    tokens = session.stream_tokens(PROMPT, max_new_tokens=900, ignore_eos=True)
    next(tokens)
    session.close()
    with pytest.raises(Closed):
        list(tokens)


def test_after_close_everything_says_so(model, local):
    client = swarm.Client(str(model), initial_peers=local.initial_peers)
    session = client.session()
    client.close()
    for use in (lambda: client.generate("x"), lambda: list(client.stream("x")), client.session, lambda: session.generate("x"), lambda: session.tokens):
        with pytest.raises(Closed):
            use()
    session.close()
    client.close()


def test_there_is_nothing_to_resume_after_a_finished_answer(client):
    with client.session() as session:
        list(session.stream_tokens(PROMPT, max_new_tokens=3, ignore_eos=True))
        with pytest.raises(UsageError, match="nothing to resume"):
            list(session.resume())
