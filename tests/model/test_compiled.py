"""Compiled layers: the same numbers as eager ones, for whoever they may serve; and every way in which they can fail to be had."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import shutil
import sys
import threading
from dataclasses import replace
from itertools import chain

import psutil
import pytest
import torch

from swarm.core import Span
from swarm.model import compiled as room
from swarm.model import recipes as recipes_room
from swarm.model.anatomy import View
from swarm.model.native import COMPILERS
from swarm.model.quantized import METHODS
from swarm.model.recipes import Argument, Call, Recipe, Unsuitable, compile_layers, worth_compiling
from swarm.model.span import Row, SpanModel
from swarm.peer.improving import adopt, improve
from tests.model.tiny import save
from tests.swarm.models import save_llama

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler on this machine")
pytestmark = needs_compiler

WHOLE = Span(0, 8)
PROMPT = list(range(40, 57))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Layers as small as these may well be slower on a busy machine."""
    monkeypatch.setattr("swarm.model.trial.SLOWER", 1000.0)


def load(folder, span: Span = WHOLE, **options) -> SpanModel:
    from swarm.model.checkpoint import Checkpoint

    return SpanModel.load(Checkpoint.open(str(folder)), [span], **options)


def build(recipes) -> None:
    """In processes of their own, each kind once."""
    for recipe in {recipe.key: recipe for recipe in recipes.values()}.values():
        asyncio.run(compile_layers(recipe))


@pytest.fixture
def made(folder):
    """A model whose layers are compiled."""
    model = load(folder)
    recipes = model.recipes()
    build(recipes)
    assert model.use_compiled(recipes) == 6
    return model


class Sessions:
    """Some sessions in one model, each at a position of its own."""

    def __init__(self, model: SpanModel, count: int, span: Span = WHOLE) -> None:
        self.model, self.span = model, span
        self.caches = [model.new_cache(span.start, span.stop) for _ in range(count)]
        for at, cache in enumerate(self.caches):
            model.run(span.start, span.stop, [Row(cache, 0, PROMPT[: 12 + at], hidden(12 + at, model) if span.start else None)])

    def step(self, tokens: int = 1) -> list[torch.Tensor]:
        given = hidden(tokens, self.model) if self.span.start else None
        rows = [Row(cache, cache.length, PROMPT[:tokens], given, range(tokens)) for cache in self.caches]
        return self.model.run(self.span.start, self.span.stop, rows)


def hidden(n: int, model: SpanModel) -> torch.Tensor:
    return torch.randn(n, model.hidden, generator=torch.Generator().manual_seed(n)).to(model.dtype)


@pytest.fixture
def ran(monkeypatch):
    """How many layers ran compiled, in each row since."""
    seen: list[int] = []
    end = room.CompiledLayers.end

    def noted(self) -> int:
        seen.append(end(self))
        return seen[-1]

    monkeypatch.setattr(room.CompiledLayers, "end", noted)
    return seen


def test_steps_are_those_of_the_eager_model(folder, made, ran):
    """One session and several, one token and some, the whole model and a part that begins and ends anywhere."""
    eager = load(folder)
    for span in (WHOLE, Span(0, 4), Span(2, 5), Span(3, 8)):
        for count, tokens in ((1, 1), (3, 1), (1, 4), (3, 5)):
            here, there = Sessions(made, count, span), Sessions(eager, count, span)
            ran.clear()
            for _ in range(3):
                for one, other in zip(here.step(tokens), there.step(tokens), strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
            assert set(ran) == {min(span.stop, 7) - max(span.start, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_steps_of_rounded_layers_are_those_of_the_eager_ones(folder, ran, method):
    eager, model = load(folder, quantize=method), load(folder, quantize=method)
    recipes = model.recipes()
    build(recipes)
    assert model.use_compiled(recipes) == 6
    for count, tokens in ((1, 1), (3, 1), (1, 4)):
        here, there = Sessions(model, count), Sessions(eager, count)
        ran.clear()
        for one, other in zip(here.step(tokens), there.step(tokens), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert set(ran) == {6}


def test_prompts_stay_eager_and_crowds_go_in_groups(made, ran):
    Sessions(made, 1)
    assert set(ran) == {0}
    crowd, alone = Sessions(made, 6), Sessions(made, 6)
    ran.clear()
    together = crowd.step(15)
    assert ran == [6, 6], "of 90 tokens, 60 and 30"
    for at, cache in enumerate(alone.caches):
        (one,) = made.run(0, 8, [Row(cache, cache.length, PROMPT[:15], None, range(15))])
        assert torch.equal(one, together[at])
    ran.clear()
    made.run(0, 8, [Row(cache, cache.length, PROMPT[: 17 if at else 1]) for at, cache in enumerate(crowd.caches[:2])])
    assert sorted(ran) == [0, 6], "one that brings a prompt does not make the others eager"


def test_a_session_keeps_the_way_in_which_it_began(folder, ran):
    model = load(folder)
    recipes = model.recipes()
    build(recipes)
    before = Sessions(model, 1)
    model.use_compiled(recipes)
    after = Sessions(model, 1)
    ran.clear()
    before.step()
    after.step()
    model.run(0, 8, [Row(cache, cache.length, [1]) for cache in (*before.caches, *after.caches)])
    assert ran == [0, 6, 0, 6]


def test_a_layer_that_fails_while_it_serves_is_eager_from_then_on(folder, made, ran, caplog):
    eager, sessions = Sessions(load(folder), 2), Sessions(made, 2)

    torn = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)
    for code in made._compiled.layers[3].forms:
        code.entry.run = ctypes.cast(torn, ctypes.c_void_p)
    for expected in (1, 0):
        ran.clear()
        with caplog.at_level(logging.WARNING):
            for one, other in zip(sessions.step(), eager.step(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert ran == [5] and caplog.text.count("layer 3: its compiled code failed (running)") == expected
        caplog.clear()


def test_layers_that_do_not_agree_stay_eager(folder, monkeypatch, caplog):
    """Weights of another layer in one of them, nothing but noise in another: the trial finds both, and the answers are right."""
    model, eager = load(folder), load(folder)
    recipes = model.recipes()
    build(recipes)
    real = room.Code
    others = iter(chain([0] * 4, [1] * 2, [2] * 2, [0] * 4))

    kept = []

    def code(path, number, tensors, operators):
        kept.append({name: tensor * factor for name, tensor in tensors.items()} if (factor := (None, 1.05, float("nan"))[next(others)]) else tensors)
        return real(path, number, kept[-1], operators)

    monkeypatch.setattr(room, "Code", code)
    with caplog.at_level(logging.WARNING):
        assert model.use_compiled(recipes) == 4
    assert [record.message.split()[1] for record in caplog.records] == ["2:", "3:"]
    for one, other in zip(Sessions(model, 2).step(), Sessions(eager, 2).step(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


class Race:
    """A clock by which eager steps take 1 s, and compiled ones as long as `fast` says of the first, the second, …"""

    def __init__(self, fast) -> None:
        self._fast, self._now, self._looks = fast, 0.0, 0

    @property
    def steps(self) -> int:
        """Of each kind."""
        return self._looks // 4

    def __call__(self) -> float:
        self._looks += 1
        self._now += {2: 1.0, 0: self._fast(self.steps)}.get(self._looks % 4, 0.0)
        return self._now

    def run(self, folder, monkeypatch) -> tuple[SpanModel, int]:
        monkeypatch.setattr("swarm.model.trial.SLOWER", 1.9)
        model = load(folder)
        recipes = model.recipes()
        build(recipes)
        return model, model.use_compiled(recipes, self)


def test_layers_that_are_much_slower_are_left(folder, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        model, count = Race(lambda step: 2.0).run(folder, monkeypatch)
    assert count == 0 and "stay eager" in caplog.text
    assert not any("forward" in vars(layer) for layer in model._layers().values())
    Sessions(model, 1).step()


def test_layers_that_seem_slower_while_others_start_beside_them_are_kept(folder, monkeypatch):
    """Ten steps of theirs are disturbed. After three a peer would have been slow for as long as it lives."""
    race = Race(lambda step: 2.0 if step <= 10 else 0.5)
    assert race.run(folder, monkeypatch)[1] == 6
    assert race.steps == 12, "no longer than it takes"


def test_layers_between_which_hidden_states_are_changed_in_place_run_one_by_one(folder, caplog):
    """Nobody could tell by the tensor: it is the same one."""

    def changed(model: SpanModel) -> SpanModel:
        layer = model._layers()[3]
        layer.register_forward_pre_hook(lambda _, args: (args[0].mul_(1.5), *args[1:]))
        return model

    model, eager = changed(load(folder)), changed(load(folder))
    recipes = model.recipes()
    build(recipes)
    with caplog.at_level(logging.INFO):
        assert model.use_compiled(recipes) == 6
    assert "one by one" in caplog.text and not model._compiled.together
    here, there = Sessions(model, 1), Sessions(eager, 1)
    for _ in range(3):
        for one, other in zip(here.step(), there.step(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def stacks(monkeypatch):
    """How many layers ran at once, each time since."""
    seen: list[int] = []
    run = room.Stack.run

    def noted(self, inputs):
        results, failed = run(self, inputs)
        seen.append(len(results))
        return results, failed

    monkeypatch.setattr(room.Stack, "run", noted)
    return seen


def test_layers_that_follow_one_another_run_at_once(folder, made, stacks):
    """Their trial has shown that they do. Never beyond the part that is asked for; the numbers are those of layers one by one."""
    eager = load(folder)
    for span, held in ((WHOLE, 6), (Span(2, 5), 3), (Span(3, 8), 4)):
        here, there = Sessions(made, 2, span), Sessions(eager, 2, span)
        for _ in range(3):
            stacks.clear()
            for one, other in zip(here.step(), there.step(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
            assert set(stacks) == {held}, "twice where a shortcut is compared"


def test_layers_between_which_something_happens_run_one_by_one(folder, made, stacks):
    """What a family does between two layers is kept: such a layer is computed anew, from what it is really given."""
    eager = load(folder)
    here, there = Sessions(made, 1), Sessions(eager, 1)
    here.step(), there.step()
    stacks.clear()
    here.step(), there.step()
    assert stacks == [6]
    made._views.clear()  # whose shortcuts know of nothing between layers
    for model in (made, eager):
        layer = model._layers()[3]
        was = layer.forward
        layer.forward = lambda hidden, *args, was=was, **kwargs: was(hidden * 1.5, *args, **kwargs)
    for expected in ([6, 3], [3, 3]):
        stacks.clear()
        for one, other in zip(here.step(), there.step(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert stacks == expected


@pytest.mark.parametrize("span", [WHOLE, Span(2, 5), Span(3, 8)])
def test_steps_go_without_the_models_own_code(folder, made, ran, monkeypatch, span):
    """A part of the model, whose steps are watched once, compared once, and then made of calls of its modules alone; prompts are not."""
    turns: list[int] = []
    usual = View.__call__

    def counted(self, given, *args, **kwargs):
        turns.append(given.shape[1])
        return usual(self, given, *args, **kwargs)

    made._views.clear()
    eager = load(folder)
    monkeypatch.setattr(View, "__call__", counted)
    for count, tokens in ((1, 1), (3, 1), (1, 4)):
        here, there = Sessions(made, count, span), Sessions(eager, count, span)
        turns.clear(), ran.clear()
        for _ in range(6):
            for one, other in zip(here.step(tokens), there.step(tokens), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert set(ran) - {0} == {min(span.stop, 7) - max(span.start, 1)}
        of_eager = 6
        assert len(turns) - of_eager <= 3, "the first steps of a kind"


def test_a_call_that_is_not_the_one_that_was_compiled_runs_eagerly(made, ran):
    """Some other mask, one argument more: whatever a newer transformers may think of."""
    made._views.clear()  # whose shortcuts call layers as they were called
    sessions = Sessions(made, 1)
    layer = made._layers()[2]
    compiled = layer.forward
    layer.forward = lambda *args, **kwargs: compiled(*args, **kwargs, output_attentions=False)
    ran.clear()
    sessions.step()
    assert ran == [5]


def test_layers_of_a_kind_share_their_code_and_others_do_not(tmp_path, folder):
    def keys(model: SpanModel) -> list[str]:
        return [recipe.key for _, recipe in sorted(model.recipes().items())]

    whole = keys(load(folder))
    assert len(whole) == 6 and len(set(whole)) == 1
    assert keys(load(folder, Span(2, 5))) == whole[:3], "whoever holds what"
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert keys(load(copy)) == whole, "wherever the files are"
    others = [load(folder, dtype="bfloat16"), load(folder, quantize="int8"), load(folder, quantize="int4"), load(save_llama(tmp_path / "wide", hidden=72))]
    assert len({whole[0], *(keys(other)[0] for other in others)}) == 5
    windows = dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    gemma = save("Gemma2", windows | dict(sliding_window=5), tmp_path / "gemma")
    model = SpanModel.load(gemma.checkpoint, [Span(0, 6)])
    first, second, *rest = keys(model)
    assert first != second and rest == [first, second], "layers with a window and such without"


def test_a_model_without_code_of_our_own_has_nothing_to_compile(folder, monkeypatch):
    monkeypatch.setattr("swarm.model.span.native_code", lambda folder: None)
    model = load(folder)
    assert model.recipes() == {} and model.use_compiled({}) == 0
    monkeypatch.undo()
    assert load(folder, dtype="float16").recipes() == {}


# --- what goes wrong ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(folder, tmp_path) -> Recipe:
    """One that nobody has made yet."""
    return replace(load(folder).recipes()[0], key="new")


def test_what_cannot_be_compiled_is_said_in_one_line_and_leaves_nothing_behind(recipe):
    with pytest.raises(Unsuitable) as caught:
        asyncio.run(compile_layers(replace(recipe, layer=77)))
    assert "\n" not in str(caught.value) and str(caught.value)
    assert not recipe.place.exists()
    assert not list(recipe.place.parent.glob(".compiling-*"))


def test_a_compiler_that_takes_too_long_is_ended(recipe, monkeypatch):
    monkeypatch.setattr(recipes_room, "PATIENCE", 0.5)
    with pytest.raises(Unsuitable, match="longer than"):
        asyncio.run(compile_layers(recipe))
    assert not _compiling()


def test_whoever_leaves_takes_its_compiler_along(recipe):
    async def main() -> None:
        task = asyncio.create_task(compile_layers(recipe))
        while not _compiling():  # noqa: ASYNC110  a process appears without telling us
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not _compiling()


def _compiling() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        try:
            if child.status() != psutil.STATUS_ZOMBIE and "swarm.model.compiling" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def test_code_that_cannot_be_loaded_changes_nothing(folder, recipe):
    model = load(folder)
    model.recipes = lambda: dict.fromkeys(range(6), recipe)
    recipe.place.mkdir()
    try:
        for text in (None, "{", '[["x", null, null]]', '{"call": [["x", null, null]], "digests": {}}'):
            if text is not None:
                (recipe.place / recipes_room.ABOUT).write_text(text)
            with pytest.raises(Unsuitable, match="cannot be loaded"):
                model.use_compiled(model.recipes())
            assert model._compiled is None and not any("forward" in vars(layer) for layer in model._layers().values())
    finally:
        shutil.rmtree(recipe.place)


def test_code_that_was_cut_short_is_made_anew(folder, tmp_path, monkeypatch):
    model = load(folder)
    recipes = model.recipes()
    build(recipes)
    place = next(iter(recipes.values())).place
    monkeypatch.setattr(Recipe, "place", property(lambda recipe: tmp_path / "copy"))
    shutil.copytree(place, tmp_path / "copy")
    library = tmp_path / "copy" / "some.so"
    library.write_bytes(library.read_bytes()[:-4096])
    with pytest.raises(Unsuitable, match="damaged"):
        model.use_compiled(recipes)
    assert not (tmp_path / "copy").exists() and model._compiled is None


def test_whoever_is_served_while_layers_prove_themselves_waits_for_a_step_at_most(folder, ran):
    """Between two pieces of it sessions begin and go on eagerly, and stay so."""
    model = load(folder)
    recipes = model.recipes()
    build(recipes)
    before, between = Sessions(model, 1), []
    for _ in model.adopting(recipes):
        assert len(ran) <= 2 or not between, "a prompt or a step, both ways"
        ran.clear()
        before.step()
        between.append(Sessions(model, 1))
        between[-1].step()
        assert set(ran) == {0}
        ran.clear()
    assert len(between) > 8
    for sessions, compiled in ((before, 0), (between[0], 0), (between[-1], 0), (Sessions(model, 1), 6)):
        ran.clear()
        sessions.step()
        assert ran == [compiled]


def test_a_session_that_begins_in_the_middle_of_a_piece_is_eager(folder, monkeypatch):
    """Hops are opened on another thread than the one that proves."""
    model = load(folder)
    recipes = model.recipes()
    build(recipes)
    begun, run = [], SpanModel.run

    def meanwhile(self, *args):
        begun.append(model.new_cache(0, 8).compiled)
        return run(self, *args)

    monkeypatch.setattr(SpanModel, "run", meanwhile)
    assert model.use_compiled(recipes) == 6
    assert len(begun) > 8 and not any(begun) and model.new_cache(0, 8).compiled


def test_a_trial_that_is_left_half_way_leaves_everything_eager(folder):
    model = load(folder)
    recipes = model.recipes()
    build(recipes)
    pieces = model.adopting(recipes)
    for _ in range(4):
        next(pieces)
    pieces.close()
    assert model._compiled is None and not any("forward" in vars(layer) for layer in model._layers().values())


class Engine:
    """Runs what it is given, on the spot."""

    def __init__(self, model) -> None:
        self.model = model

    async def alone(self, act):
        return None if self.model is None else act(self.model)


def test_a_peer_improves_what_it_holds_and_says_so(folder, monkeypatch, caplog):
    monkeypatch.setattr(recipes_room, "WORTH", 1)
    model = load(folder)
    build(model.recipes())
    with caplog.at_level(logging.INFO):
        asyncio.run(improve(Engine(model)))
    assert "steps of 6 layers" in caplog.text and model._compiled is not None


def test_a_peer_that_has_moved_meanwhile_does_not_take_the_code_of_other_layers(folder, monkeypatch, caplog):
    monkeypatch.setattr(recipes_room, "WORTH", 1)
    engine = Engine(load(folder, Span(0, 4)))
    build(engine.model.recipes())
    moved = load(folder, Span(3, 8))

    async def moves(recipe):
        engine.model = moved

    monkeypatch.setattr(recipes_room, "compile_layers", moves)
    with caplog.at_level(logging.INFO):
        asyncio.run(improve(engine))
    assert sorted(moved._compiled.layers) == [2], "the one that both hold"
    engine.model = first = load(folder, Span(0, 4))
    recipes = first.recipes()

    class Moving(Engine):
        """Moves when the trial has begun."""

        async def alone(self, act):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 4:
                self.model = moved
            return await super().alone(act)

    assert asyncio.run(adopt(Moving(first), recipes)) == 0
    assert first._compiled is None, "it would be tried for nobody"
    engine.model = load(folder, Span(0, 4))
    other = load(folder, Span(4, 8))
    monkeypatch.setattr(recipes_room, "compile_layers", lambda recipe: _exchange(engine, other))
    asyncio.run(improve(engine))
    assert other._compiled is None


async def _exchange(engine, model) -> None:
    engine.model = model


def test_whoever_leaves_while_a_layer_proves_itself_leaves():
    """A piece of it still runs then, which cannot be ended from here."""
    running, go = threading.Event(), threading.Event()

    class Slow:
        def adopting(self, recipes):
            yield
            running.set()
            go.wait(10)
            yield
            raise AssertionError("it should have been left")

    class Workshop:
        async def alone(self, act):
            return await asyncio.get_running_loop().run_in_executor(None, act, model)

    async def main() -> None:
        task = asyncio.create_task(adopt(Workshop(), {}))
        await asyncio.to_thread(running.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    model = Slow()
    asyncio.run(main())


def test_nothing_that_compiling_may_raise_ends_a_peer(folder, monkeypatch, caplog):
    monkeypatch.setattr(recipes_room, "WORTH", 1)

    async def fails(recipe):
        raise ZeroDivisionError("nobody foresaw it")

    monkeypatch.setattr(recipes_room, "compile_layers", fails)
    asyncio.run(improve(Engine(load(folder))))
    assert "nobody foresaw it" in caplog.text


def test_a_model_too_short_for_the_trial_stays_eager(tmp_path):
    model = load(save_llama(tmp_path / "short", positions=20))
    assert model.use_compiled(model.recipes()) == 0


def test_a_peer_that_cannot_improve_goes_on_as_it_is(folder, monkeypatch, caplog):
    monkeypatch.setattr(recipes_room, "WORTH", 1)

    async def fails(recipe):
        raise Unsuitable("its layers are odd")

    monkeypatch.setattr(recipes_room, "compile_layers", fails)
    model = load(folder)
    with caplog.at_level(logging.INFO):
        asyncio.run(improve(Engine(model)))
        asyncio.run(improve(Engine(None)))
    assert "its layers are odd" in caplog.text and model._compiled is None


def test_small_layers_and_full_machines_are_left_alone(folder, monkeypatch):
    recipes = load(folder).recipes()
    build(recipes)
    assert worth_compiling(recipes) == {}, "a model of tests is no model of people"
    monkeypatch.setattr(recipes_room, "WORTH", 1)
    assert worth_compiling(recipes) == recipes
    monkeypatch.setattr(recipes_room, "COMPILING", sys.maxsize)
    assert worth_compiling({i: replace(recipe, key="unmade") for i, recipe in recipes.items()}) == {}
    assert worth_compiling(recipes) == recipes, "what is there already costs nothing"


# --- how a family calls its layers ----------------------------------------------------------------------------------------------------------------------------


def test_the_tensors_of_a_call_and_back():
    x, cos, sin = torch.zeros(1), torch.ones(1), torch.ones(2)
    args, kwargs = (x, None), {"position_embeddings": (cos, sin), "use_cache": False}
    call = Call.seen(args, kwargs)
    assert call == Call((Argument(None, None), Argument(None, 0, None), Argument("position_embeddings", 2), Argument("use_cache", 0, False)))
    given = call.tensors(args, kwargs)
    assert given is not None and [id(tensor) for tensor in given] == [id(x), id(cos), id(sin)]
    assert call.put(given) == ([x, None], kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": 3}),
        ((torch.zeros(1),), {"pair": (torch.zeros(1),), "plain": 3}),
        ((torch.zeros(1),), {"pair": torch.zeros(1), "plain": 3}),
        ((torch.zeros(1),), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": 4}),
        ((torch.zeros(1),), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": torch.zeros(1)}),
        ((torch.zeros(1),), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": torch.zeros(2)}),
        ((torch.zeros(1),), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": torch.tensor([3])}),
        ((torch.zeros(1),), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": 3.0}),
        ((torch.zeros(1),), {"pair": (torch.zeros(1), torch.zeros(1))}),
        ((torch.zeros(1),), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": 3, "more": None}),
        ((torch.zeros(1), None), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": 3}),
    ],
)
def test_another_call_is_told_apart(args, kwargs):
    call = Call.seen((torch.zeros(1),), {"pair": (torch.zeros(1), torch.zeros(1)), "plain": 3})
    assert call.tensors(args, kwargs) is None


def test_arguments_that_are_neither_tensors_nor_plain_cannot_be_compiled():
    for value in ([1], object(), (torch.zeros(1), 2), ()):
        with pytest.raises(Unsuitable, match=type(value).__name__):
            Call.seen((), {"odd": value})
