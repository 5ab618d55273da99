"""How often the draft guesses the main model's next token: the number that speculative decoding lives on.

The main model answers test prompts and tells stories greedily; the draft then reads the same text and predicts each of those tokens.
"In a row" is how many guesses are right on average before the first wrong one, counted afresh from every position, at most four.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from .data import test_set

OPENINGS = ("Once upon a time", "Once upon a time there was a brave fox", "Q: tell me a story about a bear\nA:", "Once upon a time, a shy baker named Ida")
AHEAD = 4


@torch.inference_mode()
def hits(main: LlamaForCausalLM, draft: LlamaForCausalLM, prompt: list[int]) -> list[bool]:
    """For each token the main model says after the prompt: would the draft have said it too?"""
    text_1T = main.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=500, do_sample=False)
    guesses_T = draft(text_1T).logits[0].argmax(-1)
    return (guesses_T[len(prompt) - 1 : -1] == text_1T[0, len(prompt) :]).tolist()


def in_a_row(found: list[bool]) -> float:
    runs = [next((n for n, hit in enumerate(found[i : i + AHEAD]) if not hit), len(found[i : i + AHEAD])) for i in range(len(found))]
    return sum(runs) / max(1, len(runs))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.agreement", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("main", type=Path, help="the main model's folder")
    parser.add_argument("draft", type=Path, help="the draft model's folder")
    parser.add_argument("--per-task", type=int, default=8, help="questions of each task (default 8)")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.main)
    big, small = (LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval() for folder in (args.main, args.draft))
    questions = [example.prompt for example in test_set(98, args.per_task)]
    for name, prompts in (("questions", questions), ("stories", list(OPENINGS))):
        found = [hits(big, small, tokenizer.encode(prompt)) for prompt in prompts]
        every = [hit for one in found for hit in one]
        print(f"{name}: {len(prompts)} prompts, {len(every)} tokens, draft agrees on {sum(every) / len(every):.1%}, "
              f"{sum(map(in_a_row, found)) / len(found):.2f} of {AHEAD} in a row")


if __name__ == "__main__":
    main()
