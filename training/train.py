"""Train the demo model, or its draft, on text made on the spot.

The main loop: draw two batches (many short questions, a few long texts), take a step, move the mixture towards what is still wrong.
Time, not a step count, drives the schedule: warm up, hold, and come down over the last part of `--minutes`, so the same command
gives the best model a slower machine can make in that time. A checkpoint every few minutes makes it safe to stop and resume.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from .data import EOS, PAD, VOCAB_SIZE, Mixture, Row
from .muon import Muon

SIZES = {
    "main": dict(hidden_size=192, intermediate_size=384, num_hidden_layers=12, num_attention_heads=6, num_key_value_heads=2),
    "draft": dict(hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
}
SHORT_ROW, LONG_ROW = 192, 512


def config(size: str) -> LlamaConfig:
    return LlamaConfig(vocab_size=VOCAB_SIZE, head_dim=32, max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=None, eos_token_id=EOS,
                       pad_token_id=PAD, attn_implementation="sdpa", **SIZES[size])


class Batch:
    """Rows as tensors. B rows of T tokens; the mask lets a token see its own document's past and nothing else."""

    def __init__(self, rows: list[Row]) -> None:
        tokens, targets, weights, owner = zip(*(row.columns() for row in rows), strict=True)
        self.rows = rows
        self.tokens_BT, self.targets_BT = torch.tensor(tokens), torch.tensor(targets)
        self.weights_BT, owner_BT = torch.tensor(weights), torch.tensor(owner)
        same_BTT = owner_BT[:, :, None] == owner_BT[:, None, :]
        self.mask_B1TT = (same_BTT & torch.ones(same_BTT.shape[-2:], dtype=torch.bool).tril())[:, None].contiguous()

    def grade(self, logits_BTV: torch.Tensor, mixture: Mixture) -> None:
        """Greedy decoding gets an answer right exactly when every token of it is the argmax given the right ones before: no generation needed."""
        wrong_BT = ((logits_BTV.argmax(-1) != self.targets_BT) & (self.weights_BT == 1.0)).int().cumsum(-1)
        wrong = torch.cat([torch.zeros(len(self.rows), 1, dtype=torch.int64), wrong_BT], 1).tolist()
        for row, sums in zip(self.rows, wrong, strict=True):
            at = 0
            for document in row.documents:
                end = at + len(document.tokens)
                mixture.learn(document.task, float(sums[end] == sums[at]))
                at = end


def loss_of(model: torch.nn.Module, batch: Batch, scale: float, mixture: Mixture | None) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits_BTV = model(input_ids=batch.tokens_BT, attention_mask=batch.mask_B1TT, use_cache=False).logits
    logits_BTV = logits_BTV.float()
    losses_N = F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), reduction="none")
    if mixture is not None:
        batch.grade(logits_BTV.detach(), mixture)
    return (losses_N * batch.weights_BT.flatten()).sum() / scale


def optimizers(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, head and norms."""
    inside = [p for name, p in model.named_parameters() if "layers" in name and p.ndim == 2]
    rest = [p for name, p in model.named_parameters() if not ("layers" in name and p.ndim == 2)]
    muon = Muon(inside, lr=lr)
    return [muon, torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]


def adamw_only(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)]


def schedule(done: float) -> float:
    """Learning-rate factor at a share of the time: a short climb, a plateau, a straight way down over the last 45 %."""
    return min(1.0, done / 0.01 + 0.05, max(0.0, (1.0 - done) / 0.45))


def save(folder: Path, model: LlamaForCausalLM, opts: list[torch.optim.Optimizer], mixture: Mixture, spent: float, steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "opts": [opt.state_dict() for opt in opts], "accuracy": mixture.accuracy,
             "rng": mixture.rng.getstate(), "spent": spent, "steps": steps}
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=sorted(SIZES), help="which model to train")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints; training resumes from it if it holds one")
    parser.add_argument("--minutes", type=float, default=70, help="wall-clock time of the whole training, resumed parts included (default 70)")
    parser.add_argument("--seed", type=int, default=1, help="seeds the weights and the text (default 1)")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default 0.003)")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon", help="muon learnt faster per minute here (default)")
    parser.add_argument("--rows", type=int, nargs=2, default=(13, 2), metavar=("SHORT", "LONG"), help="rows per step: short of 192 tokens, long of 512")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--checkpoint-minutes", type=float, default=4, help="time between checkpoints (default 4)")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile: starts at once, a third slower")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(config(args.size)).train()
    opts = (optimizers if args.optimizer == "muon" else adamw_only)(model, args.lr)
    mixture, spent, steps = Mixture(args.seed), 0.0, 0
    if (args.out / "state.pt").exists():
        state = torch.load(args.out / "state.pt", weights_only=False)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        mixture.accuracy.update(state["accuracy"])
        mixture.rng.setstate(state["rng"])
        spent, steps = state["spent"], state["steps"]
        print(f"resumed at step {steps}, {spent / 60:.1f} min")
    run = model if args.no_compile else torch.compile(model, dynamic=False)
    print(f"{args.size}: {sum(p.numel() for p in model.parameters()):,} parameters")

    budget, short, long = args.minutes * 60, *args.rows
    last = last_save = time.monotonic()
    tokens = shown = 0
    average = 0.0
    while spent < budget:
        done = spent / budget
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = args.lr * schedule(done)
        batches = [Batch(mixture.short_rows(short, SHORT_ROW))]
        batches += [Batch(mixture.long_rows(1, LONG_ROW)) for _ in range(long)]
        scale = sum(float(batch.weights_BT.sum()) for batch in batches)
        total = 0.0
        for i, batch in enumerate(batches):
            loss = loss_of(run, batch, scale, mixture if i == 0 else None)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        now = time.monotonic()
        spent, last, steps = spent + now - last, now, steps + 1
        tokens += sum(batch.tokens_BT.numel() for batch in batches)
        average = total if not average else average + 0.02 * (total - average)
        if now - shown > 30:
            speed, shown = tokens / (now - shown) if shown else 0, now
            tokens = 0
            known = " ".join(f"{name}:{100 * value:.0f}" for name, value in mixture.accuracy.items())
            print(f"{spent / 60:5.1f} min  step {steps}  loss {average:.3f}  {speed:.0f} tok/s  | {known}", flush=True)
        if now - last_save > args.checkpoint_minutes * 60:
            save(args.out, model, opts, mixture, spent, steps)
            last_save = now
    save(args.out, model, opts, mixture, spent, steps)


if __name__ == "__main__":
    main()
