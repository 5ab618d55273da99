"""What rounding weights costs in understanding and gains in memory and speed: `python -m bench.quantized [--each 40] [--json]`.

Perplexity of the demo model over answers to questions that it was never trained on, a byte a token, whole and rounded (it has learnt to tell answers, not what
people ask); and the bytes of its weights.
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
    args = parser.parse_args()

    import torch
    from transformers import AutoTokenizer

    import swarm
    from swarm.core import Span
    from swarm.model.checkpoint import Checkpoint
    from swarm.model.quantized import METHODS
    from swarm.model.span import Row, SpanModel
    from training.data import test_set

    checkpoint = Checkpoint.open(str(swarm.demo_model()))
    whole, tokenizer = Span(0, checkpoint.shape.components), AutoTokenizer.from_pretrained(swarm.demo_model())
    texts = [(tokenizer.encode(one.prompt), tokenizer.encode(" " + one.answer)) for one in test_set(seed=0, per_task=args.each)]

    def perplexity(model: SpanModel) -> float:
        lost, count = 0.0, 0
        for at in range(0, len(texts), BATCH):
            batch = texts[at : at + BATCH]
            rows = [Row(model.new_cache(0, whole.stop), 0, asked + told, None, range(len(asked) - 1, len(asked + told) - 1)) for asked, told in batch]
            for (_, told), logits_nV in zip(batch, model.run(0, whole.stop, rows), strict=True):
                lost += float(torch.nn.functional.cross_entropy(logits_nV, torch.tensor(told), reduction="sum"))
                count += len(told)
        return math.exp(lost / count)

    ways: Sequence[str | None] = (None, *METHODS)
    figures: dict[str, object] = {"texts": len(texts)}
    found = {}
    for way in ways:
        model = SpanModel.load(checkpoint, [whole], dtype=args.dtype, quantize=way)
        found[way] = perplexity(model)
        figures[model.numerics] = f"perplexity {found[way]:.4f}, {model.nbytes / 1e6:.1f} MB of weights"
    for way in METHODS:
        figures[f"{way}: perplexity more by"] = f"{100 * (found[way] / found[None] - 1):.2f} %"
    show("the demo model", figures, args.json)


if __name__ == "__main__":
    main()
