"""The demo's draft model as a drafter: its guesses are what it would say itself, whatever the session does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from swarm.core import Sampling, Span
from swarm.demo import draft_path, path
from swarm.model.checkpoint import Checkpoint
from swarm.model.sampling import DrawRequest, draw
from swarm.model.span import Row, SpanModel
from swarm.peer.drafter import IDLE, MOST_LINES, PORTION, STOCK, DraftLine, DraftModel

GREEDY = Sampling()

PROMPT = [83, 60, 34, 117, 113, 116, 118, 34, 57, 34, 53]


def load() -> SpanModel:
    checkpoint = Checkpoint.open(str(draft_path()))
    return SpanModel.load(checkpoint, [Span(0, checkpoint.shape.components)], dtype="float32")


@pytest.fixture(scope="module")
def model() -> SpanModel:
    """For this thread: that of `draft` is for its own."""
    return load()


MOST = 2000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def draft(clock) -> Iterator[DraftModel]:
    it = DraftModel(load(), "draft", most=MOST, clock=clock)
    yield it
    it.close()


def own(model: SpanModel, history: list[int], count: int, sampling: Sampling = GREEDY) -> list[int]:
    """What the model itself says next, without anything kept between two tokens."""
    line = list(history)
    for _ in range(count):
        rows = [Row(model.new_cache(0, model.head + 1), 0, tuple(line), None, (len(line) - 1,))]
        (logits_KV,) = model.run(0, model.head + 1, rows)
        line.append(draw(logits_KV, [DrawRequest(sampling, len(line), tuple(line))])[0].token)
    return line[len(history) :]


async def guesses(line: DraftLine, heard: asyncio.Event, tokens: list[int], count: int) -> list[int]:
    """So many, once they are there."""
    while line.offers(tokens, [], len(tokens)) is None or len(line.ahead_of(tokens)) < count:
        heard.clear()
        async with asyncio.timeout(60):
            await heard.wait()
    return line.take(tokens, [], count)


def with_line(draft: DraftModel, play) -> None:
    async def run() -> None:
        heard = asyncio.Event()
        line = draft.line(heard.set)
        await play(line, heard)
        line.closed()
        line.closed()

    asyncio.run(run())


def test_it_guesses_what_the_model_says_and_follows_what_was_drawn_instead(model, draft):
    async def play(line: DraftLine, heard: asyncio.Event) -> None:
        assert line.offers(PROMPT, [], len(PROMPT)) is None, "nothing is computed yet"
        expected = own(model, PROMPT, STOCK)
        assert await guesses(line, heard, PROMPT, 2) == expected[:2]
        on_the_way = [*PROMPT, *expected[:2]]
        while line.offers(on_the_way, [], len(PROMPT)) is None:
            heard.clear()
            await heard.wait()
        assert line.take(on_the_way, [], 1) == expected[2:3], "it goes on while its guesses are on their way"
        other = [*PROMPT, expected[0], (expected[1] + 1) % 256]
        line.missed(len(other) - 1)
        assert line.offers(other, [], len(other)) is None
        assert await guesses(line, heard, other, 2) == own(model, other, 2)

    with_line(draft, play)


@pytest.mark.parametrize("sampling", [Sampling(temperature=1.0, seed=3), Sampling(temperature=0.7, seed=4, top_p=0.9, repetition_penalty=1.3)])
def test_it_draws_with_the_noise_of_the_session(model, draft, sampling):
    async def play(line: DraftLine, heard: asyncio.Event) -> None:
        line.opened(sampling)
        assert await guesses(line, heard, PROMPT, 3) == own(model, PROMPT, 3, sampling)

    with_line(draft, play)


def test_a_long_prompt_is_read_in_portions(model, draft):
    prompt = (PROMPT * (2 * PORTION // len(PROMPT) + 1))[: PORTION + 100]
    assert len(prompt) < model.max_length

    async def play(line: DraftLine, heard: asyncio.Event) -> None:
        assert await guesses(line, heard, prompt, 2) == own(model, prompt, 2)

    with_line(draft, play)


def test_it_computes_no_more_than_a_few_that_nobody_takes(draft):
    async def play(line: DraftLine, heard: asyncio.Event) -> None:
        (_,) = await guesses(line, heard, PROMPT, 1)
        for _ in range(2 * STOCK):
            await asyncio.get_running_loop().run_in_executor(draft._thread, lambda: None)
            await asyncio.sleep(0)
        assert draft.tokens == 1 + STOCK

    with_line(draft, play)


def test_a_model_that_fails_guesses_no_more_and_harms_nobody(draft, monkeypatch):
    monkeypatch.setattr(draft._model, "run", lambda *_: 1 / 0)

    async def play(line: DraftLine, heard: asyncio.Event) -> None:
        line.offers(PROMPT, [], len(PROMPT))
        await asyncio.get_running_loop().run_in_executor(draft._thread, lambda: None)
        await asyncio.sleep(0)
        assert line.offers(PROMPT, [], len(PROMPT)) is None

    with_line(draft, play)


def test_it_guesses_up_to_the_length_of_its_model_and_of_a_shorter_text_again(draft, model):
    async def play(line: DraftLine, heard: asyncio.Event) -> None:
        long = [PROMPT[at % len(PROMPT)] for at in range(model.max_length - 2)]
        assert len(await guesses(line, heard, long, 2)) == 2
        await settled(draft)
        assert len(line.ahead_of(long)) == 2, "there is no room for a third"
        line.missed(len(PROMPT))
        short = [*PROMPT, 9]
        assert await guesses(line, heard, short, 2) == own(model, short, 2)

    with_line(draft, play)


def test_it_draws_without_the_probabilities_that_the_client_asks_of_the_head(draft, monkeypatch):
    asked: list[Sampling | None] = []
    submit = draft.submit

    def noted(*work):
        asked.append(work[-1])
        return submit(*work)

    monkeypatch.setattr(draft, "submit", noted)

    async def play(line: DraftLine, heard: asyncio.Event) -> None:
        line.opened(Sampling(temperature=0.5, logprobs=5))
        await guesses(line, heard, PROMPT, 1)

    with_line(draft, play)
    assert set(asked) == {Sampling(temperature=0.5)}


async def settled(draft: DraftModel) -> None:
    """Whatever is being computed is done, and what follows from it."""
    for _ in range(4 * STOCK):
        await asyncio.get_running_loop().run_in_executor(draft._thread, lambda: None)
        await asyncio.sleep(0)


def test_who_is_not_asked_any_more_gives_way_to_who_is(draft, clock, model):
    """Sessions last as long as their clients like: were each to keep its place, 64 that say nothing would leave none for anybody."""

    async def run() -> None:
        heard = asyncio.Event()
        lines = [draft.line(heard.set) for _ in range(MOST_LINES + 1)]
        *idle, late = lines
        for line in idle:
            line.offers(PROMPT, [], len(PROMPT))
        await settled(draft)
        assert late.offers(PROMPT, [], len(PROMPT)) is None
        await settled(draft)
        assert late.offers(PROMPT, [], len(PROMPT)) is None and late._cache is None, "all the others were asked just now"
        clock.now += IDLE
        idle[0].offers(PROMPT, [], len(PROMPT))
        assert await guesses(late, heard, PROMPT, 2) == own(model, PROMPT, 2)
        assert [line._cache is None for line in lines] == [False, True, *[False] * (MOST_LINES - 1)], "the one that was asked longest ago"
        late.closed()
        assert await guesses(idle[1], heard, PROMPT, STOCK) == own(model, PROMPT, STOCK), "it reads again what it had read"

    asyncio.run(run())


def test_all_together_hold_only_so_many_positions(draft, clock):
    async def run() -> None:
        one, two, three = (draft.line(lambda: None) for _ in range(3))
        one.offers([5] * 900, [], 900)
        two.offers([5] * 900, [], 900)
        assert three.offers([5] * 900, [], 900) is None and three._cache is None
        two.offers([5] * (MOST - 500), [], MOST - 500)
        assert two._cache is None, "nor may one grow beyond it"
        clock.now += IDLE
        two.offers([5] * (MOST - 500), [], MOST - 500)
        assert two._cache is not None and one._cache is None
        await settled(draft)

    asyncio.run(run())


def test_nothing_is_computed_once_it_is_closed(draft):
    async def run() -> None:
        wrong: list[dict] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        line = draft.line(lambda: None)
        line.offers(PROMPT, [], len(PROMPT))
        draft.close()
        while line._works:  # noqa: ASYNC110  the thread ends what it does
            await asyncio.sleep(0)
        line.offers(PROMPT, [], len(PROMPT))
        assert not wrong and not line._works

    asyncio.run(run())


def test_the_next_turn_is_guessed_from_what_was_kept_of_the_last(draft, model):
    """Tokens that overshot a stop string are no part of it."""

    async def play(line: DraftLine, heard: asyncio.Event) -> None:
        assert await guesses(line, heard, [*PROMPT, 7, 7, 7], 1)
        line.missed(len(PROMPT))
        other = [*PROMPT, 9, 9]
        assert await guesses(line, heard, other, 2) == own(model, other, 2)

    with_line(draft, play)


def test_a_model_with_other_tokens_is_refused(tmp_path):
    from swarm.compose import open_draft
    from swarm.errors import InvalidConfig
    from tests.swarm.models import save_llama

    checkpoint = Checkpoint.open(str(path()))
    open_draft(str(draft_path()), checkpoint).close()
    with pytest.raises(InvalidConfig, match="has other tokens than"):
        open_draft(str(save_llama(tmp_path, layers=1)), checkpoint)
