"""Opening checkpoints: shape, identity, and a clear sentence for each thing that can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors as hub

from swarm.core import Span
from swarm.errors import DoesNotFit, HubUnreachable, ModelNotFound, NotAModel, UnsafeWeights, UnsupportedModel
from swarm.model import sources
from swarm.model.checkpoint import Checkpoint
from swarm.model.span import Row, SpanModel
from tests.model.tiny import FAMILIES, LAYERS, VOCAB, Chain, generated, prompt_of, save

HEAD = LAYERS + 1


@pytest.fixture
def copy(tiny, tmp_path):
    """A folder of our own with a tiny Llama, to be spoiled."""
    shutil.copytree(tiny("llama").folder, tmp_path / "mine")
    return tmp_path / "mine"


def spoil(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def opened(folder, **options):
    return Checkpoint.open(str(folder), **options)


# --- shape and identity -----------------------------------------------------------------------------------------------------------------------------------


def test_shape_of_a_llama(tiny):
    shape = tiny("llama").checkpoint.shape
    assert (shape.layers, shape.hidden, shape.vocab, shape.max_length, shape.components) == (LAYERS, 48, VOCAB, 128, LAYERS + 2)
    layer = (48 * 48 * 2 + 48 * 24 * 2 + 48 * 80 * 3 + 2 * 48) * 4
    assert shape.component_bytes == (VOCAB * 48 * 4, *[layer] * LAYERS, VOCAB * 48 * 4 + 48 * 4)
    assert shape.kv_bytes_per_token == (0, *[2 * 2 * 12 * 4] * LAYERS, 0)
    assert tiny("llama").checkpoint.dtype == "float32"


def test_tied_weights_count_for_both_ends_and_once_together(tiny):
    checkpoint = tiny("llama-tied").checkpoint
    matrix = VOCAB * 48 * 4
    assert checkpoint.shape.component_bytes[0] == matrix
    assert checkpoint.shape.component_bytes[-1] == matrix + 48 * 4
    assert checkpoint.bytes_for([Span(0, 1), Span(HEAD, HEAD + 1)]) == matrix + 48 * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_bytes_of_a_token_are_what_the_cache_takes(tiny, family):
    known = tiny(family)
    model = known.load(Span(2, 3))
    cache = model.new_cache(2, 3, limit=64)
    model.run(2, 3, [Row(cache, 0, [0] * 64, torch.zeros(64, 48))])
    assert cache.nbytes == 64 * known.checkpoint.shape.kv_bytes_per_token[2]


def test_copies_agree_and_other_weights_do_not(tiny, copy):
    original, mine = tiny("llama").checkpoint, opened(copy)
    assert (mine.config_hash, mine.revision) == (original.config_hash, original.revision)
    spoil(copy, _name_or_path="/somewhere/else", transformers_version="9.9", torch_dtype="float32")
    assert (opened(copy).config_hash, opened(copy).revision) == (original.config_hash, original.revision)
    spoil(copy, rms_norm_eps=1e-3)
    assert opened(copy).config_hash != original.config_hash
    assert opened(copy).revision != original.revision


def test_one_bit_of_a_weight_is_another_revision(tiny, copy):
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert opened(copy).config_hash == tiny("llama").checkpoint.config_hash
    assert opened(copy).revision != tiny("llama").checkpoint.revision


def test_hashes_of_files_are_remembered_by_path_size_and_time(copy):
    weights = copy / "model.safetensors"
    stat, first = weights.stat(), sources.file_hash(weights)
    assert first == hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.write_bytes(bytes(stat.st_size))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sources.file_hash(weights) == first
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert sources.file_hash(weights) == hashlib.sha256(bytes(stat.st_size)).hexdigest()


def test_reading_every_byte_is_reported_when_it_happens(copy):
    heard: list[float] = []
    revision = opened(copy, hashing=heard.append).revision
    assert heard == sorted(heard) and heard[-1] == 1.0
    heard.clear()
    assert opened(copy, hashing=heard.append).revision == revision and not heard


def test_a_client_needs_no_weights(tiny, copy):
    (copy / "model.safetensors").unlink()
    client = opened(copy)
    assert client.config_hash == tiny("llama").checkpoint.config_hash
    assert client.shape.component_bytes == ()
    assert client.revision is None
    with pytest.raises(NotAModel, match=r"mine has no model\.safetensors; give a folder or hub id whose weights are in safetensors format"):
        client.files_for([Span(0, 1)])


# --- what can be wrong ------------------------------------------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path):
    with pytest.raises(ModelNotFound, match=r"there is no folder \./nothing; give a folder with a model, or a hub id like Qwen/Qwen3-8B"):
        Checkpoint.open("./nothing")
    with pytest.raises(ModelNotFound, match="there is no folder a/b/c"):
        Checkpoint.open("a/b/c")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAModel, match=r"file is a file; give the folder that holds config\.json"):
        opened(tmp_path / "file")
    with pytest.raises(NotAModel, match=r"has no config\.json; give a model in transformers format"):
        opened(tmp_path)


def test_what_this_user_may_not_read_is_no_bug_of_ours(tmp_path, copy):
    """Whoever tests may be root, who may read everything, so other reasons stand in for permissions: they come as the same OSError."""
    with pytest.raises(ModelNotFound, match="File name too long"):
        Checkpoint.open("m" * 5000)
    with pytest.raises(NotAModel, match="cannot read .*gone: No such file or directory; see that it is there and that its permissions"):
        sources.Folder(tmp_path / "gone").files()
    weights = copy / "model.safetensors"
    weights.unlink()
    weights.mkdir()
    for read in (sources.read_header, sources.file_hash):
        with pytest.raises(NotAModel, match="cannot read .*model.safetensors: Is a directory"):
            read(weights)


def test_broken_configurations(copy):
    for text, message in [("{", "cannot read .*config.json"), ("[]", "does not hold a model's configuration"), ("{}", "names no model_type")]:
        (copy / "config.json").write_text(text)
        with pytest.raises(NotAModel, match=message):
            opened(copy)


def test_unknown_family_and_code_in_the_repository(copy):
    spoil(copy, model_type="llama9000", architectures=["Llama9000ForCausalLM"])
    with pytest.raises(UnsupportedModel, match=r"cannot read the configuration of mine, a llama9000"):
        opened(copy)
    spoil(copy, auto_map={"AutoConfig": "evil.Evil"})
    (copy / "evil.py").write_text("raise SystemExit('ran code of a repository')")
    with pytest.raises(UnsupportedModel, match="needs code from its repository, which is never run here"):
        opened(copy)


def test_remote_code_of_a_known_family_is_never_run(copy):
    spoil(copy, auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    (copy / "evil.py").write_text("raise SystemExit('ran code of a repository')")
    assert SpanModel.load(opened(copy), [Span(0, 1)]).hidden == 48


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "is a BertForMaskedLM, not a causal language model"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "not a causal language model; choose a model that generates text"),
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "recurrent state.*choose a model of another family than mamba"),
        ({"model_type": "bloom", "architectures": ["BloomForCausalLM"]}, "attention does not go through transformers' attention interface"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, "reads images or sound beside text"),
        ({"model_type": "lfm2", "architectures": ["Lfm2ForCausalLM"], "layer_types": ["conv", "full_attention"] * 2 + ["conv"]}, "layers of kind conv"),
    ],
)
def test_families_that_cannot_be_cut(copy, changes, message):
    spoil(copy, rope_parameters="absent", **changes)
    with pytest.raises(UnsupportedModel, match=message):
        opened(copy)


def test_pickles_are_refused(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    checkpoint = opened(copy)
    for act in (checkpoint.fetch, checkpoint.files_for, checkpoint.bytes_for, lambda spans: SpanModel.load(checkpoint, spans)):
        with pytest.raises(UnsafeWeights, match=r"has its weights only as pytorch_model\.bin.*convert it with safetensors"):
            act([Span(0, 1)])


def test_a_pickle_beside_safetensors_is_not_looked_at(copy):
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    assert SpanModel.load(opened(copy), [Span(0, 1)]).hidden == 48


def test_files_cut_off_or_lying_about_themselves(copy):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for data, message in [
        (whole[:-10], "is cut off: .* fetch it again"),
        (whole[:4], "is not a readable safetensors file"),
        (b"\xff" * 8 + whole[8:], "is not a readable safetensors file .header too long"),
        (b"\x02" + bytes(7) + b"[]", "is not a readable safetensors file"),
        (b"\x09" + bytes(7) + b'{"a": {}}', "is not a readable safetensors file"),
    ]:
        weights.write_bytes(data)
        with pytest.raises(NotAModel, match=message):
            opened(copy).bytes_for([Span(0, 1)])


def test_an_index_that_lists_what_is_not_there(copy):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.nothing": "model.safetensors"}}))
    with pytest.raises(NotAModel, match=r"lists model\.nothing in its index, but model\.safetensors does not hold it"):
        opened(copy).bytes_for([Span(0, 1)])
    for text in ('{"weight_map": {"a": "../../etc/passwd"}}', "{}", "[]"):
        (copy / "model.safetensors.index.json").write_text(text)
        with pytest.raises(NotAModel, match="without a list of weights"):
            opened(copy).files_for([Span(0, 1)])


def test_components_beyond_the_model(tiny):
    with pytest.raises(ValueError, match="reach beyond the 7"):
        tiny("llama").checkpoint.bytes_for([Span(5, 9)])


def test_disk_that_is_not_enough(copy):
    need = opened(copy).bytes_for([Span(0, HEAD + 1)])
    with pytest.raises(DoesNotFit, match=r"take 0\.0 GB of disk, more than the 0\.0 GB allowed; choose fewer layers or raise --max-disk"):
        opened(copy, max_disk=need // 2).fetch([Span(0, 1)])
    assert opened(copy, max_disk=2 * need).fetch([Span(0, 1)]) == copy


# --- the hub ----------------------------------------------------------------------------------------------------------------------------------------------


class FakeHub:
    """The hub's answers for one repository, out of a folder; remembers what was downloaded."""

    def __init__(self, folder, tmp_path, failure=None):
        self.folder, self.cache, self.failure, self.downloaded = folder, tmp_path / "cache", failure, []
        self.cache.mkdir()

    def __call__(self, token=None):
        return self

    def model_info(self, repo, files_metadata):
        if self.failure:
            raise self.failure
        siblings = [
            SimpleNamespace(rfilename=path.name, size=path.stat().st_size, lfs=self._lfs(path) if path.suffix == ".safetensors" else None)
            for path in sorted(self.folder.iterdir())
        ]
        return SimpleNamespace(sha="c0ffee", siblings=siblings)

    def _lfs(self, path):
        return SimpleNamespace(sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    def parse_safetensors_file_metadata(self, repo, filename, revision):
        found = sources.read_header(self.folder / filename)
        tensors = {name: SimpleNamespace(dtype=t.dtype, shape=list(t.shape), data_offsets=(0, t.nbytes)) for name, t in found.items()}
        return SimpleNamespace(tensors=tensors)

    def download(self, repo, filename, revision, token, cache_dir):
        assert revision == "c0ffee"
        self.downloaded.append(filename)
        shutil.copy(self.folder / filename, self.cache / filename)
        return str(self.cache / filename)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return save("Llama", FAMILIES["llama"][1], tmp_path_factory.mktemp("published"), max_shard_size="60KB")


@pytest.fixture
def hub_of(monkeypatch, tmp_path):
    def set_up(folder, failure=None):
        fake = FakeHub(folder, tmp_path, failure)
        monkeypatch.setattr(sources, "HfApi", fake)
        monkeypatch.setattr(sources, "hf_hub_download", fake.download)
        monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: (_ for _ in ()).throw(hub.LocalEntryNotFoundError("not kept")))
        return fake

    return set_up


def test_a_hub_id_and_a_full_copy_agree_without_fetching_weights(published, hub_of):
    fake = hub_of(published.folder)
    checkpoint = Checkpoint.open("somebody/tiny")
    assert checkpoint.name == "somebody/tiny"
    assert checkpoint.revision == published.checkpoint.revision
    assert checkpoint.shape.component_bytes == published.checkpoint.shape.component_bytes
    assert not any(name.endswith(".safetensors") for name in fake.downloaded)


def test_only_the_files_of_the_span_are_fetched(published, hub_of):
    fake = hub_of(published.folder)
    told: list[float] = []
    checkpoint = Checkpoint.open("somebody/tiny")
    parts = []
    for span in (Span(3, 5), Span(0, 3), Span(5, HEAD + 1)):
        fake.downloaded.clear()
        parts.append((SpanModel.load(checkpoint, [span], progress=told.append), span.start, span.stop))
        assert sorted({name for name in fake.downloaded if name.endswith(".safetensors")}) == checkpoint.files_for([span])
        assert "config.json" in fake.downloaded
    assert told[-1] == 1.0
    parts.sort(key=lambda part: part[1])
    assert Chain(parts).generate(prompt_of(9), 12) == generated(published.model, prompt_of(9), 12)


def test_files_too_large_for_the_disk_are_not_begun(published, hub_of):
    fake = hub_of(published.folder)
    with pytest.raises(DoesNotFit):
        Checkpoint.open("somebody/tiny", max_disk=1000).fetch([Span(0, 3)])
    assert not any(name.endswith(".safetensors") for name in fake.downloaded)


def _refusal(kind):
    response = SimpleNamespace(headers={}, request=None, status_code=403)
    return kind("no", response=response)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (_refusal(hub.GatedRepoError), "is gated: accept its terms .* then set HF_TOKEN or run `hf auth login`"),
        (_refusal(hub.RepositoryNotFoundError), "neither a folder nor a hub model called somebody/tiny; check the spelling, .* HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses(published, hub_of, failure, message):
    hub_of(published.folder, failure)
    with pytest.raises(ModelNotFound, match=message):
        Checkpoint.open("somebody/tiny")


@pytest.mark.parametrize("failure", [_refusal(hub.HfHubHTTPError), ConnectionError("no")])
def test_a_hub_out_of_reach_is_nothing_the_caller_did(published, hub_of, monkeypatch, failure):
    words = r"somebody/tiny is not on this machine, .* cannot be reached .no.; check the connection and try again, or give a local folder"
    fake = hub_of(published.folder, failure)
    with pytest.raises(HubUnreachable, match=words) as caught:
        Checkpoint.open("somebody/tiny")
    assert caught.value.exit_status == 1
    fake.failure = None
    checkpoint = Checkpoint.open("somebody/tiny")
    assert checkpoint.shape.layers == LAYERS

    def lost(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(sources, "hf_hub_download", lost)
    with pytest.raises(HubUnreachable, match=words):
        checkpoint.fetch([Span(0, 1)])


def test_without_a_connection_what_was_kept_serves(published, hub_of, monkeypatch):
    hub_of(published.folder, failure=ConnectionError("no route"))
    monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: str(published.folder))
    checkpoint = Checkpoint.open("somebody/tiny")
    assert (checkpoint.name, checkpoint.revision) == ("somebody/tiny", published.checkpoint.revision)


def test_without_a_connection_what_was_not_kept_is_missed_by_those_who_need_it(published, hub_of, monkeypatch, tmp_path):
    """A client may go on with part of the weights: it takes the revision that is served."""
    kept = tmp_path / "kept"
    shutil.copytree(published.folder, kept)
    hub_of(published.folder, failure=ConnectionError("no route"))
    monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: str(kept))
    first = published.checkpoint.files_for([Span(0, 1)])[0]
    (kept / first).unlink()
    checkpoint = Checkpoint.open("somebody/tiny")
    for need in (checkpoint.check_complete, lambda: checkpoint.fetch([Span(0, 1)])):
        with pytest.raises(HubUnreachable, match="the hub cannot be reached .no route."):
            need()
    with pytest.raises(NotAModel, match="holds only some"):
        _ = checkpoint.revision
    for file in kept.glob("model*"):
        file.unlink()
    with pytest.raises(HubUnreachable):
        Checkpoint.open("somebody/tiny").check_complete()
    assert Checkpoint.open("somebody/tiny").revision is None
    (kept / "config.json").unlink()
    with pytest.raises(HubUnreachable):
        Checkpoint.open("somebody/tiny")
