"""What rounding weights, or activations, costs in understanding and gains in memory: `python -m bench.quantized [--each 40] [--json]`.

Perplexity of the demo model over answers to questions that it was never trained on, a byte a token, whole and rounded (it has learnt to tell answers, not what
people ask); how far it is from the exact one over questions and answers (Kullback-Leibler divergence of what it expects next), which tells ways of rounding
apart; and the bytes of its weights. Activations are rounded as they are where they travel compressed, between `--hops` hops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.common import arguments, show

BATCH = 64


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=40, help="questions of each task")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--hops", type=int, default=3, help="between which activations are rounded")
    args = parser.parse_args()

    import torch
    from transformers import AutoTokenizer

    import swarm
    from bench.stream import split
    from swarm.core import Span, parse_layers
    from swarm.model.blobs import from_blob, to_blob
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.quantized import METHODS
    from swarm.model.span import Row, SpanModel
    from training.data import test_set

    checkpoint = Checkpoint.open(str(swarm.demo_model()))
    whole, tokenizer = Span(0, checkpoint.shape.components), AutoTokenizer.from_pretrained(swarm.demo_model())
    texts = [(tokenizer.encode(one.prompt), tokenizer.encode(" " + one.answer)) for one in test_set(seed=0, per_task=args.each)]

    def judge(model: SpanModel, spans: Sequence[Span] = (whole,)) -> tuple[float, float]:
        """Perplexity, and nats from `exact`, of a model whose spans hand on compressed rows."""
        lost, answers, off, seen = 0.0, 0, 0.0, 0
        for at in range(0, len(texts), BATCH):
            batch = texts[at : at + BATCH]

            def logits(of: SpanModel, spans: Sequence[Span] = (whole,), batch=batch) -> list[torch.Tensor]:
                handed: list[torch.Tensor | None] = [None] * len(batch)
                for span in spans:
                    sent = [None if made is None else from_blob(to_blob(made, compress=True), "cpu", made.dtype) for made in handed]
                    rows = [
                        Row(of.new_cache(span.start, span.stop), 0, asked + told, hidden, range(len(asked + told) - 1))
                        for (asked, told), hidden in zip(batch, sent, strict=True)
                    ]
                    handed = list(of.run(span.start, span.stop, rows))
                return [some_nV.float().log_softmax(-1) for some_nV in handed if some_nV is not None]

            for (_, told), ours_nV, exact_nV in zip(batch, logits(model, spans), logits(exact), strict=True):
                lost += float(torch.nn.functional.nll_loss(ours_nV[-len(told) :], torch.tensor(told), reduction="sum"))
                off += float((exact_nV.exp() * (exact_nV - ours_nV)).sum())
                answers, seen = answers + len(told), seen + len(ours_nV)
        return math.exp(lost / answers), off / seen

    ways: Sequence[str | None] = (None, *METHODS)
    figures: dict[str, object] = {"texts": len(texts)}
    found, exact = {}, SpanModel.load(checkpoint, [whole], dtype=args.dtype)
    for way in ways:
        model = SpanModel.load(checkpoint, [whole], dtype=args.dtype, quantize=way)
        found[way], off = judge(model)
        figures[model.numerics] = f"perplexity {found[way]:.4f}, {off:.4f} nats a byte from exact, {model.nbytes / 1e6:.1f} MB of weights"
    for way in METHODS:
        figures[f"{way}: perplexity more by"] = f"{100 * (found[way] / found[None] - 1):.2f} %"
    spans = [parse_layers(layers, checkpoint.shape.layers)[0] for layers in split(checkpoint.shape.layers, args.hops)]
    perplexity, off = judge(exact, spans)
    figures[f"{args.dtype}, activations compressed between {args.hops} hops"] = f"perplexity {perplexity:.4f}, {off:.4f} nats a byte from exact"
    figures["compressed: perplexity more by"] = f"{100 * (perplexity / found[None] - 1):.2f} %"
    show("the demo model", figures, args.json)


if __name__ == "__main__":
    main()
