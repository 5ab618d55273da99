"""The promise of the session rules: whatever happens on the way, the tokens are those of an undisturbed run."""

from __future__ import annotations

import pytest

from swarm.core import Sampling, Span
from swarm.wire import Guess
from tests.machines.world import CLIENT_PEER, COMPONENTS, VOCAB, World, true_tokens

SPANS = {
    "a1": Span(0, 2),
    "a2": Span(0, 3),
    "b1": Span(2, 4),
    "b2": Span(1, 5),
    "c1": Span(4, 6),
    "c2": Span(3, 6),
    "w": Span(0, 6),
}


def converse(world: World) -> None:
    """Several turns; each answer must be what the toy model says of the whole history before it."""
    history: list[int] = []
    for _ in range(world.random.randint(1, 3)):
        prompt = [world.random.randrange(VOCAB) for _ in range(world.random.randint(1, 12))]
        history += prompt
        count = world.random.randint(1, 12)
        answer = world.turn(prompt, count)
        assert answer == true_tokens(history, count)
        history += answer
        if world.random.random() < 0.5:
            kept = len(history) - world.random.randint(0, count - 1)
            world.do(world.client.cut(kept))
            del history[kept:]
        assert world.client.history == history


def interrupt(world: World) -> None:
    """Several turns, each cut short while the ring runs ahead, so that what is still on the way has no place in the history that follows."""
    history: list[int] = []
    for _ in range(5):
        history += (prompt := [world.random.randrange(VOCAB) for _ in range(world.random.randint(1, 12))])
        answer = world.turn(prompt, 12, enough=world.random.randint(1, 8))
        assert answer == true_tokens(history, len(answer))
        history += answer[: world.random.randint(0, len(answer))]
        world.do(world.client.cut(len(history)))


def test_without_trouble_nothing_is_rerouted_or_computed_twice():
    worlds = (World(seed, SPANS, trouble=0) for seed in range(100))
    world = next(world for world in worlds if world.limits.journal_bytes > 1000)  # a small journal may have to compute again
    world.guessing = 0.0
    assert world.turn([1, 2, 3, 4, 5], 10) == true_tokens([1, 2, 3, 4, 5], 10)
    assert world.reroutes == 0 and world.client.chain == 1
    assert sum(engine.positions for engine in world.engines.values()) == len(world.client.route) * (5 + 10 - 1)


@pytest.mark.parametrize("block", range(8))
def test_any_interleaving_gives_the_same_tokens(block):
    for seed in range(block * 60, block * 60 + 60):
        world = World(seed, SPANS, trouble=(0.0, 0.01, 0.03, 0.08)[seed % 4])
        try:
            converse(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("block", range(4))
def test_frames_that_arrive_after_a_later_open_do_nothing(block):
    for seed in range(block * 40, block * 40 + 40):
        try:
            interrupt(World(seed, {"a": Span(0, 2), "b": Span(2, 4), "c": Span(4, 6)}, trouble=0.1, misfortunes=("break",)))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_a_client_that_keeps_its_own_ends_is_the_same_case():
    for seed in range(60):
        converse(World(seed, {"b1": Span(1, 3), "b2": Span(1, 5), "b3": Span(3, 5), "b4": Span(2, 6)}, trouble=0.02, own_ends=True))


def test_caches_that_cannot_be_cut_start_again_from_zero():
    for seed in range(60):
        converse(World(seed, SPANS, trouble=0.02, rewindable=False))


def test_one_peer_may_be_several_hops():
    for seed in range(40):
        converse(World(seed, {"a": Span(0, COMPONENTS), "b": Span(1, 5)}, trouble=0.02))


@pytest.mark.parametrize("block", range(6))
def test_newcomers_are_fed_while_the_chain_goes_on_and_change_no_token(block):
    changed = given_up = 0
    for seed in range(block * 60, block * 60 + 60):
        world = World(seed, SPANS, trouble=(0.0, 0.0, 0.01, 0.03)[seed % 4], preparing=0.1, own_ends=seed % 5 == 0, rewindable=seed % 7 > 0)
        try:
            converse(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        changed, given_up = changed + world.changed_over, given_up + world.given_up
    assert changed > 20 and given_up > 0


@pytest.mark.parametrize("block", range(6))
def test_guesses_run_ahead_of_the_ring_through_all_misfortunes_and_change_no_token(block):
    """Rejections, draft and chain numbers, losses, replacements and newcomers together."""
    taken = wrong = furthest = 0
    for seed in range(block * 50, block * 50 + 50):
        world = World(seed, SPANS, trouble=(0.0, 0.01, 0.03)[seed % 3], preparing=0.1 * (seed % 4 == 0), own_ends=seed % 5 == 0)
        world.guessing, world.oracle.right = 0.0, (0.98, 0.8, 0.5)[seed % 3]
        world.client._credit = 64
        try:
            converse(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        taken, wrong, furthest = taken + world.oracle.taken, wrong + world.oracle.wrong, max(furthest, world.oracle.furthest)
    assert taken > 500 and wrong > 50 and furthest > 10


def test_however_many_guesses_are_taken_back_a_successor_asks_once():
    drafts = 0
    for seed in range(30):
        world = World(seed, SPANS, trouble=0)
        if world.limits.journal_bytes < 1000:  # must compute again
            continue
        world.guessing, world.oracle.right, world.client._credit = 0.0, 0.6, 64
        world.turn([1, 2, 3], 40)
        hops = [hop for room in world.rooms.values() for _, hop in room._all()]
        assert [hop._resent for hop in hops if not hop.is_last] == [1] * (len(hops) - 1)
        drafts += hops[0].epoch.draft
    assert drafts > 50


def test_guesses_that_the_client_tells_change_no_token_and_those_of_strangers_do_nothing():
    right = 0
    for seed in range(60):
        world = World(seed, SPANS, trouble=(0.0, 0.02)[seed % 2])
        world.guessing, world.telling = 0.0, 0.1
        converse(world)
        right += sum(guesser.right for room in world.rooms.values() for guesser in room._guessers.values())
    assert right > 20
    world = World(0, {"w": Span(0, 6)}, trouble=0)
    world.guessing = 0.0
    world.turn([1, 2, 3], 40, enough=10)
    (hop,), room = [hop for _, hop in world.rooms["w"]._all()], world.rooms["w"]
    guess = Guess(hop.session, hop.epoch.chain, 0, hop.accepted, (7, 7, 7))
    (told,) = room._told.values()
    room.receive("stranger", guess)
    assert told.offers(hop.tokens[: guess.start], [], guess.start) is None and hop.accepted == guess.start
    room.receive(CLIENT_PEER, guess)
    assert told.offers(hop.tokens[: guess.start], [], guess.start) == "client"


def changes_route(seed: int, spans: dict) -> World:
    """Nothing is lost, and everybody has heard of a route when the client changes its mind. (An OPEN that is overtaken by the next one's farewell, on a longer
    way to the same peer, is left to its lease.)"""
    world = World(seed, spans, trouble=0)
    world.turn([1, 2, 3], 5)
    for _ in range(4):
        world.settle()
        world.client.begin([world.random.randrange(VOCAB)], Sampling(), 5)
        world.open(world.route())
    world.settle()
    return world


@pytest.mark.parametrize("spans", [SPANS, {"a": Span(0, COMPONENTS), "b": Span(1, 5)}])
def test_after_a_change_of_route_nobody_outside_it_keeps_the_session(spans):
    for seed in range(150):
        world = changes_route(seed, spans)
        assert world.holders() == {(hop.peer, hop.start, hop.stop) for hop in world.client.route}, f"seed {seed}"
        world.parting = True
        world.do(world.client.close())
        world.settle()
        assert not world.holders() and all(room.ledger.free_tokens == room.ledger.tokens for room in world.rooms.values())


def test_newcomers_that_are_not_wanted_after_all_do_not_keep_the_session():
    prepared = kept = 0
    for seed in range(150):
        world = World(seed, SPANS, trouble=0)
        world.guessing = 0.0
        world.turn([1, 2, 3], 30, enough=5)
        hop = world.random.choice(world.client.route)
        effects = world.client.prepare([other for old in world.client.route for other in (world.replaced(old) if old is hop else [old])])
        prepared += bool(effects)
        world.do(effects)  # whatever `Prepared` says, nobody changes over to them
        for _ in range(world.random.randint(0, 200)):
            world.happen()
        world.settle()
        assert world.holders() >= {(hop.peer, hop.start, hop.stop) for hop in world.client.route}
        world.client.begin([7], Sampling(), 5)
        world.open(world.route())
        world.settle()
        kept += world.holders() != {(hop.peer, hop.start, hop.stop) for hop in world.client.route}
    assert prepared > 50 and kept == 0
