"""How fast this machine reads weights, for each spelling of a matrix product: `python -m bench.products [--dtype float32] [--threads 2] [--small-pages]`.

Gigabytes of weights a second over all matrices of eight layers of the random Llama, which no cache holds; of one layer where there are so many rows that they
are multiplied for longer than they are read. Every product takes its turn in each round, medians. Then the native one with rounded weights, the shortest of all
rounds.
"""

from __future__ import annotations

import math
import time

from bench.common import arguments, median, random_llama, show

ROUNDED_ROWS = (1, 4, 16)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--small-pages", action="store_true", help="weights as they were allocated, and not on huge pages as a peer has them")
    args = parser.parse_args()

    import torch
    from safetensors import safe_open

    from swarm.model import pages
    from swarm.model.native import native_code
    from swarm.model.products import FEW, LEAST, MEASURED, candidates, choose
    from swarm.model.quantized import METHODS
    from swarm.model.sources import cache_folder

    torch.set_num_threads(args.threads)
    with safe_open(random_llama() / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if any(f".layers.{layer}." in name for layer in range(args.layers))]
        tensors = [file.get_tensor(name).to(getattr(torch, args.dtype)) for name in names]
    weights = [tensor for tensor in tensors if tensor.dim() == 2 and tensor.numel() >= LEAST]
    if not args.small_pages and pages.are_to_be_had():
        pages.move(weights)
    code = native_code(cache_folder())
    native = code and code.product
    one_layer = weights[: len(weights) // args.layers]
    figures: dict[str, object] = {}
    with torch.inference_mode():
        for rows in MEASURED:
            read, products = weights if rows <= FEW else one_layer, candidates(weights[0].dtype, rows, native)
            size = sum(weight.nbytes for weight in read)
            inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]).to(weight.dtype) for weight in weights}
            rates: dict[str, list[float]] = {product.__name__: [] for product in products}
            for _ in range(args.rounds):
                for product in products:
                    began = time.perf_counter()
                    for weight in read:
                        product(inputs[weight.shape[1]], weight)
                    rates[product.__name__].append(size / (time.perf_counter() - began) / 1e9)
            figures[f"{rows} rows, GB/s"] = ", ".join(f"{name} {median(seen):.1f}" for name, seen in rates.items())
        for rows in ROUNDED_ROWS if native is not None else ():
            inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]).to(weight.dtype) for weight in weights}
            kinds = {"exact": (native, [(weight,) for weight in weights])}
            kinds |= {way: (native.rounded[way], [kind.rounded(weight) for weight in weights]) for way, kind in METHODS.items()}
            best = dict.fromkeys(kinds, math.inf)
            for _ in range(args.rounds):
                for way, (product, held) in kinds.items():
                    began = time.perf_counter()
                    for weight, tensors in zip(weights, held, strict=True):
                        product(inputs[weight.shape[1]], *tensors)
                    best[way] = min(best[way], time.perf_counter() - began)
            figures[f"native, {rows} rows, ms"] = ", ".join(f"{way} {1000 * seconds:.2f}" for way, seconds in best.items())
        chosen = choose(weights, time.perf_counter, native)
    figures[f"chosen for {', '.join(map(str, MEASURED))} rows"] = ", ".join(chosen[rows].__name__ for rows in MEASURED)
    show(f"{args.dtype}, {args.threads} threads, {sum(weight.nbytes for weight in weights) / 2**20:.0f} MiB of weights", figures, args.json)


if __name__ == "__main__":
    main()
