"""Grade a model folder on the test set, by greedy generation, in bfloat16 and in float32.

An answer is right when the generated text would equal the expected one to the letter and the model then says that it is done.
That is so exactly when, reading prompt and answer, it finds every token of the answer the likeliest: one pass shows it, and only wrong
answers are generated to see what was said. `same` is the share of prompts that both precisions answer alike, right or wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from . import stories
from .data import EOS, PAD, Example, test_set
from .tasks import TASKS

BY_HEART = frozenset({"multiply", "weekdays", "months", "dates", "next_letter", "fact", "talk"})
"""Tasks whose every question and wording was in training: their score says what is remembered, the others' what is understood."""
LONGEST_ANSWER = 120


class Grader:
    """One model in one precision: reads answers to grade them, writes answers to show them."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def right(self, examples: list[Example], batch: int = 64) -> list[bool]:
        """Sorted by length, so that little is padded; what stands behind an answer cannot change it."""
        texts = [(self.tokenizer.encode(one.prompt), [*self.tokenizer.encode(" " + one.answer), EOS]) for one in examples]
        order = sorted(range(len(texts)), key=lambda i: (sum(map(len, texts[i])), i))
        marks: dict[int, bool] = {}
        for group in (order[at : at + batch] for at in range(0, len(order), batch)):
            longest = max(sum(map(len, texts[i])) for i in group)
            tokens_BT = torch.tensor([(texts[i][0] + texts[i][1] + [PAD] * longest)[:longest] for i in group])
            said_BT = self.model(tokens_BT, use_cache=False).logits.argmax(-1).tolist()
            for i, said in zip(group, said_BT, strict=True):
                prompt, answer = texts[i]
                marks[i] = said[len(prompt) - 1 : len(prompt) - 1 + len(answer)] == answer
        return [marks[i] for i in range(len(examples))]

    @torch.inference_mode()
    def answers(self, prompts: list[str], batch: int = 64, longest: int = LONGEST_ANSWER) -> list[list[int]]:
        """Greedy generation; prompts of one length share a batch, so that nothing is padded."""
        tokens = [self.tokenizer.encode(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (len(tokens[i]), i))
        found: dict[int, list[int]] = {}
        while order:
            size = len(tokens[order[0]])
            group = [i for i in order[:batch] if len(tokens[i]) == size]
            order = order[len(group):]
            out = self.model.generate(torch.tensor([tokens[i] for i in group]), attention_mask=torch.ones(len(group), size, dtype=torch.long),
                                      max_new_tokens=longest, do_sample=False)
            for i, row in zip(group, out[:, size:].tolist(), strict=True):
                found[i] = row[: row.index(EOS) + 1] if EOS in row else [token for token in row if token != PAD]
        return [found[i] for i in range(len(prompts))]

    def text(self, answer: list[int]) -> str | None:
        """The answer as text, or None when the model did not end it."""
        return self.tokenizer.decode(answer[:-1]) if answer and answer[-1] == EOS else None


def evaluate(folder: Path, per_task: int, seed: int, show_wrong: int = 0) -> list[dict[str, object]]:
    """One row a task: how many asked, the share right in each precision, the share answered alike."""
    examples = list(test_set(seed, per_task))
    graders = {name: Grader(folder, getattr(torch, name)) for name in ("bfloat16", "float32")}
    right = {name: grader.right(examples) for name, grader in graders.items()}
    doubtful = [i for i in range(len(examples)) if not all(marks[i] for marks in right.values())]
    said = {name: dict(zip(doubtful, grader.answers([examples[i].prompt for i in doubtful]), strict=True)) for name, grader in graders.items()}
    rows: list[dict[str, object]] = []
    for task in [name for name in TASKS if any(example.task == name for example in examples)] + ["all"]:
        picked = [i for i, example in enumerate(examples) if task in (example.task, "all")]
        row: dict[str, object] = {"task": task, "by_heart": task in BY_HEART, "asked": len(picked)}
        for name, marks in right.items():
            row[name] = sum(marks[i] for i in picked) / len(picked)
        row["same"] = sum(said["bfloat16"].get(i) == said["float32"].get(i) for i in picked) / len(picked)
        rows.append(row)
        wrong = [i for i in picked if task != "all" and not right["bfloat16"][i]]
        for i in wrong[:show_wrong]:
            print(f"  {examples[i].prompt!r} expected {examples[i].answer!r}, said {graders['bfloat16'].text(said['bfloat16'][i])!r}")
    return rows


@torch.inference_mode()
def stories_that_hold(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Of `count` stories told greedily from an opening: how many end by themselves, and how many also keep their two names and their one thing."""
    grader, rng = Grader(folder, torch.bfloat16), Random(f"{seed}/stories")
    openings = [stories.opening(rng) for _ in range(count)]
    told = [(text, grader.text(said)) for text, said in zip(openings, grader.answers(openings, longest=600), strict=True)]
    return sum(end is not None for _, end in told), sum(end is not None and stories.holds_together(text + end) for text, end in told)


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| task | tested on | asked | bfloat16 | float32 | same |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        by = "" if row["task"] == "all" else "trained wordings" if row["by_heart"] else "held-out content"
        lines.append(f"| {row['task']} | {by} | {row['asked']} | {row['bfloat16']:.1%} | {row['float32']:.1%} | {row['same']:.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a model folder")
    parser.add_argument("--per-task", type=int, default=300, help="test examples of each task, fewer where fewer exist (default 300)")
    parser.add_argument("--seed", type=int, default=99, help="seed of the test set (default 99)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N", help="print up to N wrong answers of each task")
    parser.add_argument("--stories", type=int, default=0, metavar="N", help="also tell N stories and count those that hold together")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = evaluate(args.folder, args.per_task, args.seed, args.show_wrong)
    print(json.dumps(rows, indent=2) if args.json else table(rows))
    if args.stories:
        ended, held = stories_that_hold(args.folder, args.stories, args.seed)
        print(f"{args.stories} stories: {ended} ended, {held} kept both names and the thing to the end", file=sys.stderr)


if __name__ == "__main__":
    main()
