"""Loading spans: what is read, what is refused; and what `run` accepts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers.modeling_utils
from safetensors import safe_open

from swarm.core import Span
from swarm.errors import InvalidConfig, NotAModel, UnsupportedModel
from swarm.model.checkpoint import INDEX, Checkpoint
from swarm.model.span import Row, SpanModel
from tests.model.tiny import FAMILIES, LAYERS, VOCAB, Chain, feed, generated, prompt_of, save

HEAD = LAYERS + 1
WHOLE = Span(0, HEAD + 1)


class Counting:
    """safetensors' reader, counting the bytes of tensors that are really read."""

    def __init__(self, read: list[int], *args: object, **kwargs: object) -> None:
        self._file, self._read = safe_open(*args, **kwargs), read

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def __enter__(self) -> Counting:
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def get_slice(self, name: str) -> CountingSlice:
        return CountingSlice(self._file.get_slice(name), self._read)

    def get_tensor(self, name: str) -> torch.Tensor:
        tensor = self._file.get_tensor(name)
        self._read.append(tensor.nbytes)
        return tensor


class CountingSlice:
    def __init__(self, inner: object, read: list[int]) -> None:
        self._inner, self._read = inner, read

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def __getitem__(self, index: object) -> torch.Tensor:
        tensor = self._inner[index]
        self._read.append(tensor.nbytes)
        return tensor


@pytest.fixture
def bytes_read(monkeypatch):
    read: list[int] = []
    monkeypatch.setattr(transformers.modeling_utils, "safe_open", lambda *args, **kwargs: Counting(read, *args, **kwargs))
    return read


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "mixtral", "gemma3"])
@pytest.mark.parametrize("span", [Span(0, 1), Span(2, 4), Span(HEAD, HEAD + 1), Span(0, 2), Span(4, HEAD + 1)])
def test_only_the_bytes_of_the_span_are_read(tiny, bytes_read, family, span):
    known = tiny(family)
    bytes_read.clear()  # what transformers read to build the reference
    model = known.load(span)
    needed = known.checkpoint.bytes_for([span])
    assert 0 < sum(bytes_read) <= 1.05 * needed
    assert model.nbytes == needed


def test_several_spans_of_one_peer_share_what_is_tied(tiny, bytes_read):
    known = tiny("llama-tied")
    bytes_read.clear()
    ends = known.load(Span(0, 1), Span(HEAD, HEAD + 1))
    matrix = VOCAB * 48 * 4
    assert matrix <= sum(bytes_read) <= 1.05 * matrix
    assert ends.spans == (Span(0, 1), Span(HEAD, HEAD + 1))


def test_tied_weights_stored_under_the_name_of_the_head(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    known = tiny("llama-tied")
    shutil.copytree(known.folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint.open(str(tmp_path))
    parts = [(SpanModel.load(checkpoint, [span]), span.start, span.stop) for span in (Span(0, 1), Span(1, HEAD), Span(HEAD, HEAD + 1))]
    assert Chain(parts).generate(prompt_of(9), 12) == generated(known.model, prompt_of(9), 12)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return save("Llama", FAMILIES["llama"][1], Path(tmp_path_factory.mktemp("sharded")), max_shard_size="60KB")


def test_a_folder_with_only_the_files_of_the_span_loads(sharded, tmp_path):
    span = Span(2, 4)
    files = sharded.checkpoint.files_for([span])
    every = set(json.loads((sharded.folder / INDEX).read_text())["weight_map"].values())
    assert 0 < len(files) < len(every)
    for name in [*files, INDEX, "config.json"]:
        shutil.copy(sharded.folder / name, tmp_path / name)
    checkpoint = Checkpoint.open(str(tmp_path))
    rest = [Span(0, 2), Span(4, HEAD + 1)]
    parts = [(sharded.load(rest[0]), 0, 2), (SpanModel.load(checkpoint, [span]), 2, 4), (sharded.load(rest[1]), 4, HEAD + 1)]
    assert Chain(parts).generate(prompt_of(9), 12) == generated(sharded.model, prompt_of(9), 12)
    with pytest.raises(NotAModel, match=r"lacks model-.*which the layers asked for need"):
        SpanModel.load(checkpoint, rest)
    with pytest.raises(NotAModel, match="holds only some of the model's files"):
        _ = checkpoint.revision
    assert len(checkpoint.shape.component_bytes) == LAYERS + 2
    assert min(checkpoint.shape.component_bytes) > 0


def test_progress_reaches_the_end(tiny):
    told: list[float] = []
    tiny("llama").load(Span(1, 3), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 5


def test_dtype_is_the_checkpoints_unless_said(tiny):
    assert tiny("llama").load(Span(1, 2)).numerics == "float32"
    halved = tiny("llama").load(Span(1, 2), dtype="bfloat16")
    assert (halved.numerics, halved.dtype) == ("bfloat16", torch.bfloat16)
    assert halved.nbytes * 2 == tiny("llama").checkpoint.bytes_for([Span(1, 2)])
    with pytest.raises(InvalidConfig, match="dtype int4 is not served; choose one of float32"):
        tiny("llama").load(Span(1, 2), dtype="int4")
    with pytest.raises(InvalidConfig, match="cannot use device"):
        tiny("llama").load(Span(1, 2), device="cuda" if not torch.cuda.is_available() else "cuda:99")


def test_bfloat16_runs_and_says_so_in_what_it_returns(tiny):
    model = tiny("llama").load(WHOLE, dtype="bfloat16")
    cache = model.new_cache(0, 3)
    (hidden,) = model.run(0, 3, [Row(cache, 0, prompt_of(5))])
    assert (hidden.dtype, tuple(hidden.shape)) == (torch.bfloat16, (5, 48))
    (logits,) = model.run(3, HEAD + 1, [Row(model.new_cache(3, HEAD + 1), 0, prompt_of(5), hidden, [1, 4])])
    assert (logits.dtype, tuple(logits.shape)) == (torch.float32, (2, VOCAB))


def test_missing_and_broken_weights_are_named(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny("llama").folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotAModel, match=r"has no weights for model\.layers\.1\.mlp\.up_proj\.weight; fetch it again"):
        SpanModel.load(Checkpoint.open(str(tmp_path)), [Span(1, 4)])
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotAModel, match="cannot be loaded"):
        SpanModel.load(Checkpoint.open(str(tmp_path)), [Span(1, 4)])


def test_a_final_norm_by_an_unknown_name_is_noticed(tmp_path):
    """LFM2 calls it `embedding_norm`; taken for a part of `embed` it would be missing from `head`, and answers would be wrong without a word."""
    settings = {key: value for key, value in FAMILIES["llama"][1].items() if key != "rope_parameters"}
    known = save("Lfm2", settings | {"layer_types": ["full_attention"] * LAYERS}, tmp_path)
    with pytest.raises(UnsupportedModel, match=r"has model\.embedding_norm after its layers"):
        known.load(Span(1, 2))


# --- run --------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tiny):
    return tiny("llama").load(WHOLE)


def test_rows_that_make_no_sense_are_refused_and_change_nothing(whole):
    cache, hidden = whole.new_cache(1, 3), torch.zeros(2, 48)
    whole.run(1, 3, [Row(cache, 0, [1, 2], hidden)])
    good = Row(cache, 2, [3, 4], hidden)
    for row, message in [
        (Row(cache, 1, [3, 4], hidden), "position 1 does not append to a cache of 2"),
        (Row(cache, 3, [3, 4], hidden), "position 3 does not append to a cache of 2"),
        (Row(cache, 2, [], hidden), "a row without tokens"),
        (Row(cache, 2, [3], hidden), r"shape \(2, 48\) where \(1, 48\) is needed"),
        (Row(cache, 2, [3, 4]), r"shape None where \(2, 48\) is needed"),
        (Row(cache, 2, [0] * 200, torch.zeros(200, 48)), "positions up to 202 are beyond the model's 128"),
        (Row(whole.new_cache(1, 4), 0, [3, 4], hidden), r"a cache of components \[1, 4\) cannot serve \[1, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            whole.run(1, 3, [good, row])
        assert cache.length == 2
    with pytest.raises(ValueError, match="token ids must be at least 0 and below 131"):
        whole.run(0, 1, [Row(whole.new_cache(0, 1), 0, [131])])
    with pytest.raises(ValueError, match=r"logits are wanted of offsets \[2\] among 2 tokens"):
        whole.run(HEAD, HEAD + 1, [Row(whole.new_cache(HEAD, HEAD + 1), 0, [1, 2], hidden, [2])])


def test_only_held_components_run(tiny):
    model = tiny("llama").load(Span(0, 2), Span(3, 5))
    with pytest.raises(ValueError, match=r"components \[1, 3\) are not held; \[0, 2\), \[3, 5\) are"):
        model.new_cache(1, 3)
    with pytest.raises(ValueError, match="reach beyond the 7"):
        tiny("llama").load(Span(3, 9))


def test_wanted_logits_and_none_at_all(whole):
    prompt = prompt_of(8)
    every = Chain([(whole, 0, HEAD + 1)]).feed(prompt, range(8))
    some = Chain([(whole, 0, HEAD + 1)]).feed(prompt, [6, 2])
    torch.testing.assert_close(some, every[[6, 2]])
    last = Chain([(whole, 0, HEAD + 1)]).feed(prompt)
    torch.testing.assert_close(last, every[7:])
    chain = Chain([(whole, 0, HEAD), (whole, HEAD, HEAD + 1)])
    assert tuple(chain.feed(prompt, []).shape) == (0, VOCAB)
    assert [cache.length for cache in chain.caches] == [8, 8]


def test_a_run_that_fails_leaves_the_caches_as_they_were(whole, monkeypatch):
    chain = Chain([(whole, 0, HEAD + 1)])
    prompt = prompt_of(12)
    expected = Chain([(whole, 0, HEAD + 1)]).generate(prompt, 6)
    chain.feed(prompt[:5], [])
    layer = whole._model.model.layers[3]
    with monkeypatch.context() as broken:
        broken.setattr(layer.mlp, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            chain.feed(prompt[5:], [])
    assert chain.length == 5
    assert chain.generate(prompt[5:], 6) == expected


def test_a_layer_that_never_asks_for_attention_is_noticed(whole, monkeypatch):
    monkeypatch.setattr(whole._model.model.layers[2].self_attn, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(UnsupportedModel, match="5 layers called for attention 4 times"):
        Chain([(whole, 0, HEAD + 1)]).feed([1, 2], [])


def test_caches_reserve_no_more_than_their_limit(whole):
    cache = whole.new_cache(1, 3, limit=20)
    whole.run(1, 3, [Row(cache, 0, [0] * 18, torch.zeros(18, 48))])
    assert cache.nbytes == 2 * 2 * 20 * 2 * 12 * 4


# --- rotary embeddings that scale with the length ---------------------------------------------------------------------------------------------------------

_FACTORS = dict(short_factor=[1.0 + i / 10 for i in range(6)], long_factor=[3.0 + i for i in range(6)])
SCALED = {
    "longrope": ("Phi3", FAMILIES["phi3"][1] | dict(
        partial_rotary_factor=1.0, sliding_window=None, original_max_position_embeddings=32,
        rope_parameters=dict(rope_type="longrope", rope_theta=1e4, original_max_position_embeddings=32, **_FACTORS))),
    "dynamic": ("Llama", FAMILIES["llama"][1] | dict(max_position_embeddings=32, rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=4.0))),
}  # fmt: skip


@pytest.fixture(params=SCALED, scope="module")
def scaled(request, tmp_path_factory):
    name, settings = SCALED[request.param]
    return save(name, settings, Path(tmp_path_factory.mktemp(request.param)))


def test_short_sequences_answer_as_transformers_even_beside_long_ones(scaled):
    model = scaled.load(WHOLE)
    model.max_length = 128
    prompt, long_prompt = prompt_of(7), prompt_of(50, seed=2)
    expected = generated(scaled.model, prompt, 20)
    short, long = Chain([(model, 0, HEAD + 1)], limit=27), Chain([(model, 0, HEAD + 1)], limit=80)
    feed([long], [long_prompt[:10]], [[]])
    tokens = [int(feed([long, short], [long_prompt[10:], prompt], [None, None])[1].argmax())]
    while len(tokens) < 20:
        tokens.append(int(feed([long, short], [[5], tokens[-1:]], [None, None])[1].argmax()))
    assert tokens == expected


def test_long_sequences_do_not_depend_on_how_they_were_cut(scaled):
    model = scaled.load(WHOLE)
    model.max_length = 128
    prompt = prompt_of(40, seed=4)
    answers = [Chain([(model, 0, HEAD + 1)], limit=70).generate(prompt, 20, chunks) for chunks in ([], [5, 20, 3], [39])]
    assert answers[0] == answers[1] == answers[2]


def test_long_prompts_answer_as_transformers(tmp_path):
    name, settings = SCALED["longrope"]
    known = save(name, settings, tmp_path)
    assert Chain([(known.load(WHOLE), 0, HEAD + 1)], limit=70).generate(prompt_of(40), 20) == generated(known.model, prompt_of(40), 20)
