"""A way to provoke each entry of docs/errors.md: its section, then how the entry begins, and what a user would have to do (run by test_errors.py).

A command is run in this process, with the arguments a user would type. What only an odd model, a full machine or a GPU brings is asked of the function that
says it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import io
import json
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub import errors as hub_errors

import swarm
from swarm import causal_lm
from swarm.client.turn import OVERDUE
from swarm.core import Sampling, Span
from swarm.errors import Refused, SwarmError, TimedOut
from swarm.gateway.access import Keys
from swarm.local import LocalProcess
from swarm.model import anatomy, attention, devices, loading, mapped, sources, span, text
from swarm.model.checkpoint import Checkpoint
from swarm.model.span import SpanModel
from swarm.net import addresses
from swarm.net.identity import Identity
from swarm.net.members import SwarmKey, write_invitation
from swarm.routing.candidates import missing
from swarm.routing.plan import choose_class
from swarm.routing.route import Request
from tests.client.test_session import Host
from tests.gateway import pretend
from tests.net.virtual import run

NOBODY = "/ip4/127.0.0.1/tcp/9/p2p/" + Identity.ephemeral().peer_id
"""Well-formed, and nobody is there."""

ELSEWHERE = "203.0.113.5"
"""An address of documentation, which is no machine's."""


@dataclass(frozen=True)
class Said:
    sentence: str
    ends: tuple[str, ...]
    """How the page may call it: exit status, HTTP status, class."""


class World:
    """A folder, a tiny model, and what a user can do."""

    def __init__(self, folder: Path, model: str, patch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.folder, self.model, self.patch, self._capsys = folder, model, patch, capsys

    def command(self, name: str, *argv: object) -> Said:
        """The one sentence on stderr."""
        self._capsys.readouterr()
        status = importlib.import_module(f"swarm.cli.{name}").main([str(one) for one in argv])
        last = self._capsys.readouterr().err.rstrip("\n").split("\n")[-1]
        assert last.startswith(f"swarm-{name}: "), last
        return Said(last.partition(": ")[2], (str(status),))

    def serve(self, *argv: object, model: object = None) -> Said:
        return self.command("serve", self.model if model is None else model, "--host", "127.0.0.1", *argv)

    def ask(self, *argv: object, prompt: str = "hello") -> Said:
        return self.command("generate", prompt, "--model", self.model, "--local", "2", *argv)

    def entrance(self, *argv: object) -> Said:
        return self.command("bootstrap", *argv)

    def raised(self, call: Callable[[], object]) -> Said:
        """By a function, as a command or a Python user would hear it."""
        with pytest.raises(SwarmError) as caught:
            call()
        return Said(str(caught.value), (str(caught.value.exit_status), type(caught.value).__name__))

    def session(self, act: Callable[[Any], Any], silent: bool = False) -> Said:
        """By a session that talks to a peer which is only pretended, or which says nothing."""

        async def main() -> None:
            host = Host()
            if silent:
                host._say = lambda message: None  # type: ignore[method-assign]
            async with host.new_session() as session:
                await act(session)

        return self.raised(lambda: run(main()))

    def http(self, path: str, body: Any = None, *, client: Any = None, settings: dict[str, Any] | None = None, **how: Any) -> Said:
        answered = pretend.asking(pretend.gateway(client, **(settings or {})), path, body, **how)
        try:
            return Said(answered.error["message"], (str(answered.status),))
        except ValueError:
            return Said(answered.body.decode(), (str(answered.status),))

    def chat(self, client: Any = None, **fields: Any) -> Said:
        return self.http("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}, client=client)

    def complete(self, **fields: Any) -> Said:
        return self.http("/v1/completions", {"model": "m", "prompt": "hi", **fields})

    def file(self, content: str | bytes, name: str = "file") -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def copy(self, *without: str, **config: Any) -> Path:
        """Of the model, another configuration or fewer files."""
        folder = self.folder / "copy"
        shutil.copytree(self.model, folder)
        for name in without:
            (folder / name).unlink()
        if config:
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        return folder

    def key(self) -> Path:
        path = self.folder / "our.key"
        SwarmKey.create(path)
        return path

    def invitation(self, peer: str | None = None, days: float = 1.0) -> Path:
        path = self.folder / "theirs.invitation"
        write_invitation(path, SwarmKey.read(self.key()).invite(peer or Identity.ephemeral().peer_id, days, time.time()))
        return path

    @contextlib.contextmanager
    def listening(self) -> Iterator[int]:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            yield taken.getsockname()[1]


def taken_port(w: World) -> Said:
    with w.listening() as port:
        return w.entrance("--host", "127.0.0.1", "--port", port)


def used_identity(w: World) -> Said:
    with Identity.claimed(w.folder / "peer.key"):
        return w.entrance("--host", "127.0.0.1", "--port", "0", "--identity", w.folder / "peer.key")


def damaged(w: World) -> Said:
    whole = bytearray(Identity.ephemeral().to_bytes())
    whole[-1] ^= 1
    return w.entrance("--host", "127.0.0.1", "--port", "0", "--identity", w.file(bytes(whole)))


def environment(w: World) -> Said:
    w.patch.setenv("SWARM_PROT", "1")
    return w.entrance()


def full_disk(w: World) -> Said:
    def act(_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    w.patch.setattr("swarm.cli.bootstrap._main", act)
    return w.entrance()


def bug(w: World) -> Said:
    w.patch.setattr("swarm.cli.bootstrap._main", lambda _: 1 // 0)
    return w.entrance()


def translated(error: Exception) -> Callable[[World], Said]:
    def call() -> None:
        with sources._translated("some/model"):
            raise error

    return lambda w: w.raised(call)


def unreadable(w: World) -> Said:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    w.patch.setattr(Path, "open", refuse)  # root may read anything
    return w.raised(lambda: sources.read_header(Path(w.model) / "model.safetensors"))


def index(w: World, content: object, *without: str) -> Path:
    folder = w.copy(*without)
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


def weights(w: World) -> list[str]:
    return list(sources.read_header(Path(w.model) / "model.safetensors"))


def half_a_model(w: World) -> Path:
    names = weights(w)
    halves = {name: "model.safetensors" if at % 2 else "model-2.safetensors" for at, name in enumerate(names)}
    return index(w, {"weight_map": halves})


def pickled(w: World) -> Said:
    folder = w.copy("model.safetensors")
    (folder / "pytorch_model.bin").touch()
    return w.serve(model=folder)


def changed_since(w: World) -> Said:
    """As the hub's cache has it: a link to a file that is called after its hash."""
    snapshot, blob = w.copy("model.safetensors"), w.folder / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    shutil.copy(Path(w.model) / "model.safetensors", blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    return w.serve("--layers", "0:2", model=snapshot)


def with_weights(changed: Callable[[bytes], bytes]) -> Callable[[World], Said]:
    def provoke(w: World) -> Said:
        file = w.copy() / "model.safetensors"
        file.write_bytes(changed(file.read_bytes()))
        return w.serve("--layers", "0:2", model=file.parent)

    return provoke


def uneven(w: World) -> Said:
    """Layers that keep something else each."""

    def widths(_: object) -> int:
        raise AttributeError("num_attention_heads")

    w.patch.setattr("swarm.model.checkpoint.kv_width", widths)
    return w.serve()


def unwritable_revocation(w: World) -> Said:
    key = w.key()
    (w.folder / "our.key.revoked").mkdir()
    return w.entrance("revoke", NOBODY[-52:], "--swarm-key", key)


def expired(w: World) -> Said:
    Identity.load_or_create(w.folder / "my.key")
    peer = Identity.load_or_create(w.folder / "my.key").peer_id
    invitation = w.folder / "old.invitation"
    write_invitation(invitation, SwarmKey.read(w.key()).invite(peer, 1.0, time.time() - 10 * 86400))
    return w.entrance("--swarm-key", invitation, "--identity", w.folder / "my.key", "--host", "127.0.0.1", "--port", "0")


def broken_load(error: Exception) -> Callable[[World], Said]:
    def provoke(w: World) -> Said:
        def fail(*_: object, **__: object) -> None:
            raise error

        w.patch.setattr("transformers.LlamaForCausalLM.from_pretrained", fail)
        checkpoint = Checkpoint.open(w.model)
        return w.raised(lambda: loading.read_part(_Kind(fail), checkpoint, Path(w.model), set(weights(w)), torch.float32, None))

    return provoke


class _Kind:
    def __init__(self, load: Callable[..., Any]) -> None:
        self.from_pretrained = load


def lacking(w: World) -> Said:
    kind = _Kind(lambda *_, **__: (None, {"missing_keys": ["model.norm.weight"]}))
    return w.raised(lambda: loading.read_part(kind, Checkpoint.open(w.model), Path(w.model), set(weights(w)), torch.float32, None))


def gated_layer(act: Callable[[Any], object]) -> Callable[[World], Said]:
    return lambda w: w.raised(lambda: act(anatomy.Gate(SimpleLayer())))


class SimpleLayer(torch.nn.Module):
    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
        return hidden, None


def uncalled(w: World) -> Said:
    model = SpanModel.load(Checkpoint.open(w.model), [Span(1, 2)])
    pack = SimpleNamespace(calls=0)
    view: Any = Mock(held=1, return_value=(None,))
    return w.raised(lambda: model._compute(view, pack, None, None, None))  # type: ignore[arg-type]


def no_embedding(w: World) -> Said:
    odd = Mock(config=SimpleNamespace(num_hidden_layers=1), named_modules=lambda: [], get_input_embeddings=lambda: None, get_output_embeddings=lambda: None)
    return w.raised(lambda: anatomy.dissect(odd))


def empty_tokenizer(w: World) -> Said:
    w.patch.setattr(text.AutoTokenizer, "from_pretrained", lambda *_, **__: ())
    return w.raised(lambda: text.Text.open(Path(w.model)))


def little_memory(*argv: object, most: float = 0.0) -> Callable[[World], Said]:
    """As on a machine with room for so much of this model."""

    def provoke(w: World) -> Said:
        whole = (Path(w.model) / "model.safetensors").stat().st_size
        w.patch.setattr("swarm.model.memory.usable", lambda free, **_: int(most * whole))
        return w.serve(*argv)

    return provoke


def spread_badly(w: World) -> Said:
    w.patch.setattr("swarm.model.layout.lay_out", lambda *_: None)
    return w.serve("--layers", "0:2")


def other_draft(w: World) -> Said:
    return w.serve("--draft", swarm.demo_model())


def torch_fails(w: World) -> Said:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    w.patch.setattr(span, "spread", fail)
    return w.raised(lambda: SpanModel.load(Checkpoint.open(w.model), [Span(1, 2)]))


def standard_input(w: World) -> Said:
    w.patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    return w.ask(prompt="-")


def no_plots(w: World) -> Said:
    w.patch.setitem(sys.modules, "matplotlib", None)
    return w.command("bench", "--out", w.folder / "out")


def too_late(w: World) -> Said:
    async def wait(*_: object, **__: object) -> None:
        await asyncio.sleep(3600)

    w.patch.setattr("swarm.client.aio.open_model", wait)
    return w.command("status", "--model", w.model, "--initial-peers", NOBODY, "--timeout", "0.001")


def atlas(revision: str = "r", numerics: str = "bfloat16") -> Any:
    return {(revision, numerics): None}


def unsynchronized(w: World, act: Callable[[swarm.Client], object]) -> Said:
    return w.raised(lambda: act(swarm.Client(w.model, initial_peers=[NOBODY])))


def closed_meanwhile(w: World) -> Said:
    from swarm.client.sync import _LoopThread

    loop = _LoopThread()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    try:
        return w.raised(lambda: loop.call(cancelled()))
    finally:
        loop.stop()


def closed(w: World) -> Said:
    from swarm.client.sync import _LoopThread

    loop = _LoopThread()
    loop.stop()
    return w.raised(lambda: loop.call(asyncio.sleep(0)))


async def pieces(iterator: Any) -> list[Any]:
    return [piece async for piece in iterator]


def closed_session(w: World) -> Said:
    async def act(session: Any) -> None:
        await session.close()
        await session.generate("say: ")

    return w.session(act)


def closed_while_it_answers(w: World) -> Said:
    async def act(session: Any) -> None:
        answer = asyncio.create_task(session.generate("say: "))
        await asyncio.sleep(0.01)
        await session.close()
        await answer

    return w.session(act, silent=True)


def two_turns(w: World) -> Said:
    async def act(session: Any) -> None:
        first = session.stream("say: ", max_new_tokens=20)
        await anext(first)
        await session.generate("say: ")

    return w.session(act)


def plain_then_chat(w: World) -> Said:
    async def act(session: Any) -> None:
        await session.generate("say: ", max_new_tokens=3)
        await session.generate("say: ", chat=True)

    return w.session(act)


def ended_process(lines: str, patience: float = 30.0) -> Callable[[World], Said]:
    """Of a local swarm: one that does nothing but these lines."""

    def provoke(w: World) -> Said:
        w.file(lines, "pretender.py")
        with (w.folder / "log").open("wb") as log:
            child = LocalProcess("pretender", [], log, {"PYTHONPATH": str(w.folder)})
        try:
            return w.raised(lambda: child.wait_ready(patience, w.folder / "log"))
        finally:
            child.kill()

    return provoke


def whole(ids: Any, mask: Any = None, rows: Sequence[Any] = ()) -> Callable[[World], Said]:
    return lambda w: w.raised(lambda: causal_lm._whole(ids, mask, SimpleNamespace(rows=rows)))  # type: ignore[arg-type]


def template(w: World) -> Said:
    class Strict(pretend.Bytes):
        def encode_chat(self, messages: Any) -> list[int]:
            there = text.Text.open(Path(w.model))
            there.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
            return there.encode_chat(messages)

    client = pretend.Client()
    client.text = Strict()
    return w.chat(client)


def no_template(w: World) -> Said:
    client = pretend.Client()
    client.text = text.Text.open(Path(w.model))  # type: ignore[assignment]
    return w.chat(client)


def busy(w: World) -> Said:
    it = pretend.gateway(most=2)
    with it.admitted(2):
        answered = pretend.asking(it, "/v1/completions", {"model": "m", "prompt": "hi"})
    return Said(answered.error["message"], (str(answered.status),))


def demo_links(w: World) -> Said:
    far = 0.1
    return w.raised(lambda: swarm.LocalSwarm(w.model, layers=["0:3", "3:6"], links=[[far]]))


def unlinked(w: World) -> Said:
    return w.raised(lambda: swarm.LocalSwarm.__dict__["_distant"].fget(SimpleNamespace(_emulator=None)))


FULL = Refused("peer x has no room and nobody can take its place (full); start another peer, try again in 3 s or later", "overloaded", retry_after=3.0)
HOLE = missing([], Request(4), [Span(0, 4)])

HOW: dict[str, dict[str, Callable[[World], Said]]] = {
    "Every command": {
        "there is no option": lambda w: w.entrance("--prot", "1"),
        "the following arguments": lambda w: w.command("serve"),
        "unrecognized": lambda w: w.entrance("much", "too", "much"),
        "argument …: invalid choice": lambda w: w.serve("--quantize", "int3"),
        "argument …: expected": lambda w: w.entrance("--port"),
        "argument …: ignored": lambda w: w.serve("--polite=yes"),
        "argument …: … is no …number": lambda w: w.entrance("--port", "http"),
        "argument …: … is out of range": lambda w: w.entrance("--port", "70000"),
        "argument …: … is no size": lambda w: w.serve("--max-memory", "much"),
        "argument …: a name is": lambda w: w.serve("--public-name", "two\nlines"),
        "argument …: … is none of": lambda w: w.command("bench", "--sharding", "oddly"),
        "cannot read the config file": lambda w: w.entrance("--config", "/nowhere/at/all.yaml"),
        "cannot read … as YAML": lambda w: w.entrance("--config", w.file("port: [\n")),
        "… holds no settings": lambda w: w.entrance("--config", w.file("just words\n")),
        "… sets … twice": lambda w: w.entrance("--config", w.file("port: 1\nport: 2\n")),
        "… sets …, which": lambda w: w.entrance("--config", w.file("prot: 1\n")),
        "… gives …": lambda w: w.entrance("--config", w.file("port: {a: 1}\n")),
        "the environment sets": environment,
        "cannot write: ": full_disk,
        "this is a bug": bug,
    },
    "Addresses, ports and keys": {
        "cannot read … as a peer address": lambda w: w.entrance("--initial-peers", "nonsense"),
        "cannot read … as an address to announce": lambda w: w.entrance("--announce", "/ip4/1.2.3.4/udp/5"),
        "there are no public peers": lambda w: w.command("status"),
        "none of the initial peers": lambda w: w.entrance("--host", "127.0.0.1", "--port", "0", "--initial-peers", NOBODY),
        "… is no IP address": lambda w: w.entrance("--host", "over-there"),
        "port … on …": taken_port,
        "cannot listen on … port": lambda w: w.entrance("--host", ELSEWHERE),
        "there is no folder … for the identity": lambda w: w.entrance("--identity", w.folder / "mistyped" / "peer.key"),
        "cannot use the identity": lambda w: w.entrance("--identity", w.folder),
        "… is no Ed25519": lambda w: w.entrance("--identity", w.file("no key at all")),
        "… holds an RSA": lambda w: w.entrance("--identity", w.file(b"\x08\x00\x12" + bytes(600))),
        "… is damaged": damaged,
        "identity … is already used": used_identity,
    },
    "A model": {
        "the model's name": lambda w: w.serve(model=""),
        "there is no folder": lambda w: w.serve(model="/nowhere/model"),
        "cannot look for": lambda w: w.serve(model="/" + "x" * 5000),
        "… is a file": lambda w: w.serve(model=w.file("")),
        "there is neither": translated(hub_errors.RepositoryNotFoundError("none", response=Mock(headers={}))),
        "… is gated": translated(hub_errors.GatedRepoError("gated", response=Mock(headers={}))),
        "… is not on this machine": translated(ConnectionError("no route to host")),
        "… on the hub has no": lambda w: w.raised(
            lambda: sources.Hub.fetch(SimpleNamespace(name="some/model", _sizes={}), (), None)  # type: ignore[arg-type]
        ),
        "… has no config.json": lambda w: w.serve(model=w.folder),
        "… does not hold": lambda w: w.serve(model=w.file("[]", "config.json").parent),
        "… has a config.json that": lambda w: w.serve(model=w.file("{}", "config.json").parent),
        "cannot read … (…); fetch": lambda w: w.serve(model=w.file("{", "config.json").parent),
        "cannot read …: …; see": unreadable,
        "… has no …; give a folder": lambda w: w.serve(model=w.copy("model.safetensors")),
        "… has its weights only": pickled,
        "… holds only some": lambda w: w.serve(model=half_a_model(w)),
        "… lacks …": lambda w: w.raised(lambda: Checkpoint.open(str(half_a_model(w))).tensors_for([Span(0, 8)])),
        "… has a … without": lambda w: w.serve(model=index(w, {"weight_map": 5})),
        "… lists … in its index": lambda w: w.serve(
            model=index(w, {"weight_map": {**dict.fromkeys(weights(w), "model.safetensors"), "x": "model.safetensors"}})
        ),
        "… is not a readable": with_weights(lambda whole: b"version https://git-lfs.github.com/spec/v1"),
        "… is not the file": changed_since,
        "… is cut off": with_weights(lambda whole: whole[:-5]),
        "… has a safetensors file": translated(hub_errors.SafetensorsParsingError("no header")),
        "… has no weights for": lacking,
        "the weights of … cannot": broken_load(RuntimeError("size mismatch")),
        "cannot map": lambda w: w.raised(lambda: mapped.mapped(w.file("nothing"), "head")),
        "… needs a package": broken_load(ImportError("needs mamba_ssm")),
        "… needs code": lambda w: w.serve(model=w.copy(model_type="strange", auto_map={"AutoConfig": "strange.Config"})),
        "transformers cannot read": lambda w: w.serve(model=w.copy(model_type="of-tomorrow")),
        "… is a …, not": lambda w: w.serve(model=w.copy(architectures=["LlamaForSequenceClassification"])),
        "… cannot be split": lambda w: w.serve(model=w.file('{"model_type": "falcon", "architectures": ["FalconForCausalLM"]}', "config.json").parent),
        "the configuration of … states": uneven,
        "… so it cannot be cut": no_embedding,
        "… returns more": gated_layer(lambda gate: gate(torch.zeros(1))),
        "… was never called": gated_layer(lambda gate: gate.out()),
        "… asks for attention": lambda w: w.raised(lambda: attention.packed_attention(torch.nn.Module(), *[torch.zeros(1, 1, 1, 1)] * 3, None)),
        "… layers called": uncalled,
        "… holds no tokenizer": lambda w: w.raised(lambda: text.Text.open(w.file("{}", "config.json").parent)),
        "the tokenizer of": empty_tokenizer,
    },
    "What to serve": {
        "cannot read … as layers": lambda w: w.serve("--layers", "5:2"),
        "… is out of range: this model": lambda w: w.serve("--layers", "0:7"),
        "argument …: there is no device": lambda w: w.serve("--device", "abacus"),
        "cannot use device …; choose": lambda w: w.serve("--device", "xpu:7", "--layers", "0:2"),
        "cannot use device … (": torch_fails,
        "cannot compute on": lambda w: w.raised(lambda: devices.resolve("cuda:0,cuda:0", ("cuda:0", "cpu"))),
        "argument …: … cannot stay": lambda w: w.serve("--on-disk", "layers"),
        "a head that is rounded": lambda w: w.serve("--on-disk", "head", "--quantize", "int8"),
        "the embedding of": lambda w: w.raised(lambda: mapped.MappedTable(torch.nn.Linear(1, 1), torch.zeros(1, 1), torch.float32, "cpu")),
        "the head of": lambda w: w.raised(lambda: mapped.check_head(torch.nn.Embedding(1, 1), torch.zeros(1, 1))),
        "… has no single matrix": lambda w: w.raised(
            lambda: mapped._matrix(SimpleNamespace(name="odd", tensors_for=lambda _: {"a.weight", "b.weight"}), 0, 7)  # type: ignore[arg-type]
        ),
        "layers are streamed": lambda w: w.serve("--offload", "yes", "--layers", "0:2"),
        "these layers of … need": little_memory("--layers", "0:6", "--cache-tokens", "8", most=0.5),
        "these layers of … fit": spread_badly,
        "not even one layer": little_memory(),
        "the files of": lambda w: w.serve("--max-disk", "1KB", "--host", "127.0.0.1", "--port", "0", "--layers", "0:2"),
        "argument …: … is too little": lambda w: w.serve("--max-upload", "49kB"),
        "argument …: a name": lambda w: w.serve("--public-name", "x" * 65),
        "argument …: the name": lambda w: w.serve("--region", ""),
        "the draft model": other_draft,
    },
    "Asking": {
        "the prompt is empty": lambda w: w.ask(prompt=""),
        "the prompt on standard": standard_input,
        "the prompt is not valid": lambda w: w.ask(prompt="caf\udce9"),
        "prompt and answer": lambda w: w.ask(prompt="x" * 1024),
        "… has no chat template": lambda w: w.ask("--chat"),
        "a stop string": lambda w: w.ask("--stop", ""),
        "… must be above 0": lambda w: w.ask("--top-p", "0"),
        "--own-layers are kept": lambda w: w.command("gateway", "--local", "2", "--own-layers", "0:2"),
        "own layers go on": lambda w: w.raised(lambda: swarm.compose.own_spans("2:4", Checkpoint.open(w.model).shape)),
        "--local starts a swarm of its own, so": lambda w: w.ask("--initial-peers", NOBODY),
        "the peers of --local": lambda w: w.ask("--trust", NOBODY[-52:]),
        "--local starts a swarm of its own, in": lambda w: w.ask("--swarm-key", "our.key"),
        "this model has": lambda w: w.ask("--local", "7"),
        "… is no peer id": lambda w: w.command("gateway", "--trust", "somebody", "--initial-peers", NOBODY),
        "peers serve another": lambda w: w.raised(lambda: choose_class(atlas("theirs"), "ours", 4)),
        "no peer serves": lambda w: w.raised(lambda: choose_class(atlas("r"), "r", 4, "float32")),
        "layers … by nobody": lambda w: w.raised(lambda: choose_class({}, "r", 4)),
        "could not join": too_late,
        "the time allowed": lambda w: w.session(lambda session: session.generate("say: ", timeout=5.0), silent=True),
    },
    "A private swarm": {
        "name one file": lambda w: w.entrance("keygen"),
        "… is there already, and": lambda w: w.entrance("keygen", w.key()),
        "cannot write the swarm key": lambda w: w.entrance("keygen", "/nowhere/our.key"),
        "cannot read the swarm key": lambda w: w.entrance("--swarm-key", "/nowhere/our.key", "--host", "127.0.0.1", "--port", "0"),
        "… is neither": lambda w: w.entrance("invite", NOBODY[-52:], "--swarm-key", w.file("no key")),
        "… is an invitation": lambda w: w.entrance("revoke", NOBODY[-52:], "--swarm-key", w.invitation()),
        "… is there already; name": lambda w: w.entrance("invite", NOBODY[-52:], "--swarm-key", w.key(), "--out", w.file("", "there")),
        "cannot write the invitation": lambda w: w.entrance("invite", NOBODY[-52:], "--swarm-key", w.key(), "--out", "/nowhere/x"),
        "cannot write the revocation": unwritable_revocation,
        "… invites": lambda w: w.entrance("--swarm-key", w.invitation(), "--host", "127.0.0.1", "--port", "0"),
        "the invitation … is not valid": expired,
    },
    "swarm-gateway, when it starts": {
        "cannot listen on … (": lambda w: w.command("gateway", "--local", "2", "--host", "no such place"),
        "cannot listen on … port": lambda w: w.command("gateway", "--local", "2", "--host", ELSEWHERE),
        "cannot read the keys": lambda w: w.command("gateway", "--local", "2", "--api-keys", "/nowhere/keys"),
        "… holds no key": lambda w: w.command("gateway", "--local", "2", "--api-keys", w.file("# none\n")),
        "a key in": lambda w: w.command("gateway", "--local", "2", "--api-keys", w.file("short\n")),
        "the page shows": lambda w: w.command("status", "--web", "--model", "a/b", "--model", "c/d", "--initial-peers", NOBODY),
    },
    "swarm-bench": {
        "cannot write to": lambda w: w.command("bench", "--out", w.file("") / "below"),
        "peers that swarm-bench": lambda w: w.command("bench", "--swarm-key", "our.key"),
        "plots are drawn": no_plots,
        "this model has": lambda w: w.command("bench", "--model", w.model, "--peers", "64", "--no-plots", "--out", w.folder / "out"),
    },
    "Over HTTP": {
        "the body is not valid JSON": lambda w: w.http("/v1/completions", raw=b"{"),
        "the body is no JSON object": lambda w: w.http("/v1/completions", {"model": "m", "prompt": "hi"}, content_type="text/plain"),
        "…: Field required": lambda w: w.http("/v1/completions", {"prompt": "hi"}),
        "…: Input should be": lambda w: w.chat(temperature=1000),
        "…: List should have": lambda w: w.chat(messages=[]),
        "there is no … in this request": lambda w: w.chat(temprature=1),
        "stream_options is": lambda w: w.chat(stream_options={"include_usage": True}),
        "top_logprobs": lambda w: w.chat(top_logprobs=2),
        "max_tokens: says": lambda w: w.chat(max_tokens=5, max_completion_tokens=6),
        "…: this gateway has no tools": lambda w: w.chat(tools=[{"type": "function"}]),
        "response_format": lambda w: w.chat(response_format={"type": "json_object"}),
        "logit_bias": lambda w: w.chat(logit_bias={"5": 1}),
        "…: not available; rep": lambda w: w.chat(presence_penalty=0.5),
        "…: not available; leave": lambda w: w.chat(prediction={"type": "content"}),
        "suffix": lambda w: w.complete(suffix="x"),
        "…: only text is possible": lambda w: w.chat(modalities=["audio"]),
        "…models here read": lambda w: w.chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        "…not valid Unicode": lambda w: w.complete(prompt="\ud800"),
        "best_of": lambda w: w.complete(best_of=3),
        "echo": lambda w: w.complete(echo=True, logprobs=1),
        "prompt: give": lambda w: w.complete(prompt=[]),
        "… answers in one": lambda w: w.complete(prompt=["a"] * 5, n=16),
        "the prompt is empty": lambda w: w.complete(prompt=""),
        "prompt and answer": lambda w: w.complete(prompt="x" * 1200),
        "… is no token": lambda w: w.complete(prompt=[299, 300]),
        "… has no chat template": no_template,
        "this model's chat template": template,
        "this gateway asks": lambda w: w.http("/v1/models", settings={"keys": Keys(["a key that is known"])}),
        "this gateway does not": lambda w: w.http("/v1/models", settings={"keys": Keys(["a key that is known"])}, authorization="Bearer another"),
        "there is no such path": lambda w: w.http("/v2"),
        "there is no model": lambda w: w.chat(model="another"),
        "this path takes": lambda w: w.http("/v1/completions", method="GET"),
        "the body is too large": lambda w: w.complete(prompt="x" * (9 * 2**20)),
        "… answers run here": busy,
        "peer … has no room": lambda w: w.chat(pretend.Client(refuses=FULL)),
        "this is a bug": lambda w: w.chat(pretend.Client("", breaks=ZeroDivisionError())),
        "layers … by nobody": lambda w: w.chat(pretend.Client(refuses=HOLE)),
        "this gateway is shutting": lambda w: w.chat(pretend.Client(refuses=swarm.errors.Closed("closed"))),
        "the time allowed": lambda w: w.chat(pretend.Client(refuses=TimedOut(OVERDUE))),
    },
    "Python": {
        "a model is": lambda w: w.raised(lambda: swarm.aio.Client(5)),
        "there are no public": lambda w: w.raised(lambda: asyncio.run(swarm.aio.Client(w.model).start())),
        "…, and cannot be": lambda w: w.raised(lambda: swarm.aio.Client(w.model, patience="long")),
        "mixed takes": lambda w: w.raised(lambda: swarm.aio.Client(w.model, mixed=True, dtype="float32-int8")),
        "trusted_only": lambda w: w.raised(lambda: swarm.aio.Client(w.model, trusted_only=True)),
        "… has no option": lambda w: w.raised(lambda: swarm.aio.Client(w.model, initial_peer=[])),
        "this client is not open": lambda w: w.raised(lambda: swarm.aio.Client(w.model)._network),
        "this client is closed": closed,
        "this client was closed": closed_meanwhile,
        "this session is closed": closed_session,
        "this session was closed": closed_while_it_answers,
        "this session has no route": lambda w: w.session(lambda session: asyncio.sleep(0, session.route)),
        "there is nothing": lambda w: w.session(lambda session: pieces(session.resume())),
        "this session goes on": plain_then_chat,
        "a session answers": two_turns,
        "max_new_tokens": lambda w: w.session(lambda session: session.generate("say: ", max_new_tokens=0)),
        "… is no token": lambda w: w.session(lambda session: pieces(session.stream_tokens([10**6]))),
        "… must be": lambda w: w.raised(lambda: Sampling(temperature=-1)),
        "stop token ids": lambda w: w.raised(lambda: Sampling(stop_ids=(-1,))),
        "stop_ids are": lambda w: w.session(lambda session: session.generate("say: ", stop_ids=5)),
        "at most 256": lambda w: w.raised(lambda: Sampling(stop_ids=tuple(range(257)))),
        "dtype …": lambda w: w.raised(lambda: SpanModel.load(Checkpoint.open(w.model), [Span(1, 2)], dtype="int3")),
        "weights cannot": lambda w: w.raised(lambda: SpanModel.load(Checkpoint.open(w.model), [Span(1, 2)], quantize="int3")),
        "port … is out": lambda w: w.raised(lambda: addresses.listen_addr("127.0.0.1", 70000)),
        "input_ids are": whole(torch.tensor([1])),
        "the cache holds": whole(torch.tensor([[1]]), None, [(), ()]),
        "an attention mask": whole(torch.tensor([[1]]), torch.ones(2, 1)),
        "keys and values": lambda w: w.raised(lambda: causal_lm.SwarmForCausalLM.forward(None, torch.tensor([[1]]), past_key_values=())),
        "peers are given": lambda w: w.raised(lambda: causal_lm.SwarmForCausalLM.forward(None, torch.tensor([[1]]), inputs_embeds=torch.ones(1))),
        "peers count": lambda w: w.raised(lambda: causal_lm.SwarmForCausalLM.forward(None, torch.tensor([[1]]), position_ids=torch.ones(1))),
        "peers do not send": lambda w: w.raised(lambda: causal_lm.SwarmForCausalLM.forward(None, torch.tensor([[1]]), output_attentions=True)),
        "a local swarm": lambda w: w.raised(lambda: swarm.LocalSwarm(w.model, layers=[])),
        "peers of this swarm": unlinked,
        "there is no peer": lambda w: w.raised(lambda: swarm.LocalSwarm._numbered(SimpleNamespace(peers=[1, 2]), 0, 2)),
        "links are": lambda w: w.raised(lambda: swarm.LocalSwarm(w.model, layers=["0:3", "3:6"], links="near")),
        "Distance(": lambda w: w.raised(lambda: swarm.LocalSwarm(w.model, layers=["0:3", "3:6"], links=[[0, -1], [-1, 0]])),
        "links say": demo_links,
        "a peer process …; the end": ended_process("raise SystemExit(3)"),
        "a peer process has said": ended_process("import time; time.sleep(600)", 0.2),
    },
}
