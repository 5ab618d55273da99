"""A conversation as messages, beside the tokens of its session. Knows the model's chat format through its tokenizer; nothing of turns or peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swarm.errors import EmptyPrompt

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a turn adds: `ids` after the first `keep` tokens of the history. `messages` are the whole conversation if that is what the tokens spell."""

    ids: Sequence[int]
    keep: int
    messages: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """`messages` so far; what follows position `answered_from` of the history is the answer to the last of them, up to the stop string that ended it."""

    messages: tuple[Message, ...] = ()
    answered_from: int = 0
    stopped: str | None = None

    def ask(self, question: str, history: Sequence[int], text: Any) -> Prompt:
        """The next question. The whole conversation is put into the model's format anew, as chat servers do: a template may write earlier messages differently
        once others follow. The history is kept as far as its tokens stay the same. Raises what `Text.encode_chat` does."""
        messages = self._asked(question, history, text)
        ids = text.encode_chat(messages)
        if not ids:
            raise EmptyPrompt
        same = min(len(history), len(ids) - 1)  # one token at least is new, for the ring to begin with
        keep = next((at for at in range(same) if history[at] != ids[at]), same)
        return Prompt(ids[keep:], keep, messages)

    def _asked(self, question: str, history: Sequence[int], text: Any) -> tuple[Message, ...]:
        """A question that got no answer is withdrawn. Templates bring their own space around an answer."""
        before = self.messages[:-1]
        if tokens := history[self.answered_from :]:
            answer = text.decode(tokens)
            if self.stopped is not None:
                answer = answer.partition(self.stopped)[0]
            before = (*self.messages, {"role": "assistant", "content": answer.strip()})
        return (*before, {"role": "user", "content": question})
