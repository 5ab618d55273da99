"""A peer that computes something else than it says: `CHEAT=noise python -m tests.attacks.cheating_peer` and whatever swarm-serve takes. It announces to be
fast, so that it is chosen. Kinds: zeros, noise, weights (of another model), int4 (a smaller copy), skip (a layer), tenth (noise in one round of ten), mute
(does not account for its work), head (noise where tokens are drawn, and nowhere else).
"""

from __future__ import annotations

import os
import random
import sys

import msgspec
import torch

from swarm.cli import serve
from swarm.machines.hop import HopSession
from swarm.model.span import SpanModel
from swarm.peer.server import Peer

BOAST = 20.0

load, run, record = SpanModel.load.__func__, SpanModel.run, Peer._record


def cheating_load(cls, checkpoint, spans, **options):
    kind = os.environ["CHEAT"]
    if kind == "int4":
        model = load(cls, checkpoint, spans, **{**options, "quantize": "int4"})
        model.numerics = model.numerics.removesuffix("-int4")
        return model
    model = load(cls, checkpoint, spans, **options)
    generator = torch.Generator().manual_seed(7)
    for name, weights in model._model.named_parameters():
        if kind == "weights" and weights.dim() == 2:
            weights.data = weights.data[torch.randperm(len(weights), generator=generator)]
        if kind == "skip" and f"layers.{spans[0].start + 1}." in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            weights.data.zero_()
    return model


def cheating_run(self, start, stop, rows):
    outputs, kind = run(self, start, stop, rows), os.environ["CHEAT"]
    if kind == "zeros":
        return [torch.zeros_like(output) for output in outputs]
    if kind == "noise" or (kind == "head" and outputs[0].shape[-1] == self.vocab) or (kind == "tenth" and random.random() < 0.1):
        return [output + 0.5 * output.std() * torch.randn_like(output) if len(output) else output for output in outputs]
    return outputs


def boasting_record(self):
    said = record(self)
    return msgspec.structs.replace(said, decode=said.decode / BOAST, prefill=said.prefill / BOAST)


SpanModel.load = classmethod(cheating_load)
SpanModel.run = cheating_run
Peer._record = boasting_record
if os.environ["CHEAT"] == "mute":
    HopSession.show = lambda self, start, stop: None

if __name__ == "__main__":
    sys.exit(serve.main())
