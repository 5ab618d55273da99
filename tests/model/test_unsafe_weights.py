"""Weights run no code: whatever lies in a model's folder, it is refused before it is loaded, or it is another model, or it is no more than numbers. What could
run leaves a mark here when it does."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from swarm.core import Span
from swarm.errors import NotAModel, SwarmError, UnsafeWeights, UsageError
from swarm.model import sources
from swarm.model.checkpoint import Checkpoint
from swarm.model.mapped import mapped
from swarm.model.span import SpanModel
from swarm.model.text import Text
from tests.model.test_checkpoint import FakeHub
from tests.swarm.models import save_tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

FLIPS = 100
"""Of so many bytes of a header one is tried by default; `make attacks` tries all."""


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Iterator[Path]:
    """There once something has run."""
    mark = tmp_path / "it ran"
    monkeypatch.setenv("IT_RAN", str(mark))
    yield mark
    assert not mark.exists(), "code of a model's folder has run"


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    shutil.copytree(tiny("llama").folder, tmp_path / "mine")
    return tmp_path / "mine"


class Evil:
    """Unpickled, it runs."""

    def __reduce__(self):
        return os.system, ('touch "$IT_RAN"',)


CODE = "import os, pathlib\npathlib.Path(os.environ['IT_RAN']).touch()\nraise SystemExit('code of a repository ran')\n"


def pickles(folder: Path) -> dict[str, bytes]:
    torch.save({"model.norm.weight": Evil()}, folder / "zip")
    torch.save({"model.norm.weight": Evil()}, folder / "legacy", _use_new_zipfile_serialization=False)
    found = {"zip": (folder / "zip").read_bytes(), "legacy": (folder / "legacy").read_bytes(), "plain": pickle.dumps(Evil())}
    for name in ("zip", "legacy"):
        (folder / name).unlink()
    return found


def opens(folder: Path) -> Checkpoint:
    return Checkpoint.open(str(folder))


def everything(folder: Path) -> SpanModel:
    checkpoint = opens(folder)
    return SpanModel.load(checkpoint, [Span(0, checkpoint.shape.components)])


def test_what_would_run_does_run_where_it_is_believed(tmp_path, monkeypatch):
    """Or none of these tests could fail."""
    monkeypatch.setenv("IT_RAN", str(tmp_path / "it ran"))
    for kind, data in pickles(tmp_path).items():
        (tmp_path / "file").write_bytes(data)
        if kind == "plain":
            pickle.loads(data)
        else:
            torch.load(tmp_path / "file", weights_only=False)
        (tmp_path / "it ran").unlink()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "consolidated.00.pth", "model.ckpt"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_pickle_alone_is_refused(copy, mark, name, kind):
    (copy / WEIGHTS).unlink()
    (copy / name).write_bytes(pickles(copy)[kind])
    with pytest.raises(UnsafeWeights, match="a format that can run code"):
        everything(copy)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_pickle_by_another_name_is_refused(copy, mark, kind):
    (copy / WEIGHTS).write_bytes(pickles(copy)[kind])
    with pytest.raises(NotAModel, match="is not a readable safetensors file"):
        everything(copy)
    with pytest.raises(NotAModel, match="cannot map"):
        mapped(copy / WEIGHTS, "model.norm.weight")


def test_a_pickle_that_an_index_names_is_refused(copy, mark):
    names = list(sources.read_header(copy / WEIGHTS))
    (copy / "pytorch_model.bin").write_bytes(pickles(copy)["zip"])
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "pytorch_model.bin")}))
    for listed in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        (copy / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS) | {"model.norm.weight": listed}}))
        with pytest.raises(NotAModel, match="without a list of weights"):
            everything(copy)


ELSEWHERE = ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", ".safetensors", "a\0.safetensors", "..\\a.safetensors", 7, None, ["x"]]


@pytest.mark.parametrize("listed", ELSEWHERE)
def test_an_index_that_points_elsewhere_is_refused(copy, tmp_path, mark, listed):
    shutil.copy(copy / WEIGHTS, tmp_path / "secret.safetensors")
    (copy / "sub").mkdir()
    shutil.copy(copy / WEIGHTS, copy / "sub" / "a.safetensors")
    names = list(sources.read_header(copy / WEIGHTS))
    (copy / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, listed)}))
    with pytest.raises(NotAModel):
        everything(copy)


def test_a_file_both_zip_and_safetensors_is_read_as_safetensors(copy, mark):
    """Formats that are read from the end can be put behind those that are read from the beginning."""
    with zipfile.ZipFile(copy / "zip", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes() + (copy / "zip").read_bytes())
    with pytest.raises(NotAModel):
        everything(copy)


HEADERS = [b"[" * 200_000, b'{"a":' * 100_000, b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}', b'{"a": 1}', b"\xff"]


@pytest.mark.parametrize("header", HEADERS, ids=["deep list", "deep object", "endless shape", "no tensor", "no text"])
def test_headers_that_make_no_sense_are_refused(copy, mark, header):
    (copy / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(NotAModel):
        everything(copy)


def flipped(folder: Path, places: list[int], dice: random.Random, known: str, load_each: int) -> Counter[str]:
    """Change a byte at each place, one after the other, of a model that is announced as `known`; what became of it. One in so many is loaded whole, of the
    others a tensor."""
    path, became = folder / WEIGHTS, Counter[str]()
    data = path.read_bytes()
    for turn, place in enumerate(places):
        changed = bytearray(data)
        changed[place] ^= dice.randrange(1, 256)
        path.write_bytes(changed)
        os.utime(path, ns=(turn, turn))  # two of them within a tick of the clock would be taken for one
        try:
            checkpoint = opens(folder)
            assert checkpoint.revision != known, f"byte {place} was changed, and nobody noticed"
            if turn % load_each:
                mapped(path, "model.norm.weight")
            else:
                SpanModel.load(checkpoint, [Span(0, checkpoint.shape.components)])
            became["another revision"] += 1
        except SwarmError as error:
            assert isinstance(error, UsageError), error
            became["refused"] += 1
    path.write_bytes(data)
    return became


def places_of(folder: Path, header: int, data: int) -> tuple[list[int], list[int]]:
    """Every so many bytes of the header, and some of the rest."""
    whole = (folder / WEIGHTS).stat().st_size
    with (folder / WEIGHTS).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    return list(range(0, 8 + length, header)), sorted(random.Random(1).sample(range(8 + length, whole), data))


def test_a_changed_byte_is_refused_or_another_model(tiny, copy, mark):
    """Of a folder nobody has said what it should be; but others announce what theirs is, and no chain mixes the two."""
    header, data = places_of(copy, FLIPS, 4)
    became = flipped(copy, header + data, random.Random(2), tiny("llama").checkpoint.revision, load_each=6)
    assert became["refused"] and became["another revision"] >= len(data)


@pytest.fixture(params=["a store of its own", "a store that all models share"])
def cached(request, copy, tmp_path) -> tuple[Path, Path]:
    """A folder as the hub's cache has it, links to files that are named by their hashes, or to links of such names; and the file."""
    blobs, snapshot = tmp_path / "models--somebody--tiny" / "blobs", tmp_path / "models--somebody--tiny" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob = named = blobs / sources.bytes_hash(copy / WEIGHTS)
    if "share" in request.param:
        blob = tmp_path / "blobs" / "ab" / ("ab" + 31 * "c0")  # no sha256, though it looks like one
        blob.parent.mkdir(parents=True)
        named.symlink_to(Path("../../blobs/ab", blob.name))
    shutil.copy(copy / WEIGHTS, blob)
    (snapshot / WEIGHTS).symlink_to(Path("../../blobs", named.name))
    shutil.copy(copy / "config.json", snapshot)
    return snapshot, blob


def test_a_changed_byte_of_what_the_hub_announced_is_refused_before_it_is_loaded(tiny, cached, monkeypatch):
    """The name of the file says what must be in it, and so does the revision that would be announced: without a look, others would take it for theirs."""
    snapshot, blob = cached
    assert opens(snapshot).revision == tiny("llama").checkpoint.revision
    assert everything(snapshot).hidden == 48
    data = bytearray(blob.read_bytes())
    data[-5] ^= 1
    blob.write_bytes(data)
    os.utime(blob, ns=(7, 7))
    monkeypatch.setattr("swarm.model.span.read_part", lambda *_, **__: pytest.fail("it was loaded"))
    heard: list[float] = []
    checkpoint = opens(snapshot)
    with pytest.raises(NotAModel, match=rf"^{blob.resolve()} is not the file that the hub announces .sha256 .* delete it and fetch it again"):
        SpanModel.load(checkpoint, [Span(0, 1)], progress=heard.append)
    assert heard == sorted(heard) and 0 < heard[-1] <= 0.5


def test_a_download_that_is_not_what_the_hub_announced_is_refused_before_it_is_loaded(copy, tmp_path, monkeypatch):
    """Of the right length: that is all that is looked at while it is fetched."""
    fake = FakeHub(copy, tmp_path)

    def download(*about: object, **more: object) -> str:
        path = Path(fake.download(*about, **more))
        if path.name == WEIGHTS:
            data = bytearray(path.read_bytes())
            data[-5] ^= 1
            path.write_bytes(data)
        return str(path)

    monkeypatch.setattr(sources, "HfApi", fake)
    monkeypatch.setattr(sources, "hf_hub_download", download)
    monkeypatch.setattr("swarm.model.span.read_part", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(NotAModel, match="is not the file that the hub announces"):
        SpanModel.load(Checkpoint.open("somebody/tiny"), [Span(0, 1)])


# --- what lies beside the weights -----------------------------------------------------------------------------------------------------------------------


def spoil(path: Path, **changes: object) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


@pytest.mark.parametrize("family", ["llama", "evil"])
def test_a_configuration_that_names_code_is_refused_or_passed_over(copy, mark, family):
    for name in ("evil", "modeling_evil", "configuration_evil"):
        (copy / f"{name}.py").write_text(CODE)
    (copy / "custom_generate").mkdir()
    (copy / "custom_generate" / "generate.py").write_text(CODE)
    maps = {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    spoil(copy / "config.json", auto_map=maps, model_type=family, trust_remote_code=True, custom_pipelines={"x": {"impl": "evil.Evil"}})
    spoil(copy / "generation_config.json", custom_generate="evil", trust_remote_code=True)
    if family == "evil":
        with pytest.raises(UsageError, match="needs code from its repository"):
            everything(copy)
    else:
        assert everything(copy).hidden == 48


@pytest.mark.parametrize("known", [True, False])
def test_a_tokenizer_that_names_code_is_refused_or_passed_over(copy, mark, known):
    save_tokenizer(copy)
    for name in ("evil", "tokenization_evil"):
        (copy / f"{name}.py").write_text(CODE)
    spoil(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]}, trust_remote_code=True)
    if not known:
        spoil(copy / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
        (copy / "tokenizer.json").unlink()
    try:
        Text.open(copy).encode("hello")
    except UsageError:
        pass


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model"])
def test_a_pickle_in_place_of_a_tokenizer_is_not_run(copy, mark, name):
    save_tokenizer(copy)
    (copy / "tokenizer.json").unlink()
    (copy / name).write_bytes(pickle.dumps(Evil()))
    try:
        Text.open(copy).encode("hello")
    except UsageError:
        pass


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('touch \"$IT_RAN\"') }}",
        "{{ raise_exception.__globals__['os'].system('touch \"$IT_RAN\"') }}",
        "{% set _ = messages.append(1) %}",
    ],
)
def test_a_chat_template_reaches_nothing(copy, mark, template):
    save_tokenizer(copy)
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(UsageError, match="refuses these messages"):
        Text.open(copy).encode_chat([{"role": "user", "content": "hello"}])
