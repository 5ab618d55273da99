"""The model room's reader and writer: text to token ids and back, by the model's own tokenizer. Knows nothing of weights, sampling or peers.

Ids arrive one at a time, and a token is not a piece of text: it may be a third of an emoji, or begin with a space that only its neighbours bring out.
`Detokenizer` therefore shows only what no later token can change, and all its pieces joined are what decoding all the ids at once gives.

Decoding never "cleans up" spaces (" ." to "."): transformers does not either for the BPE tokenizers of nearly every causal LM, and it would corrupt code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from swarm.errors import EmptyPrompt, NotAModel, UsageError

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""How SentencePiece spells a token that is one byte of a character it has no token for."""

HALF = "\N{REPLACEMENT CHARACTER}"
"""What decoders show for bytes that are no character, or not yet one."""

_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
ALPHABET = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(256 + at): byte for at, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)},
}
"""The letters with which byte-level tokenizers, GPT-2's and its descendants', spell bytes."""

CONTEXT = 8
"""Tokens of the past that stay in the window. One is enough for a leading space; six bytes are for UTF-8: three of a half character, and three more before
it, after which a decoder that began in the middle of a character is in step again whatever the bytes are."""

WINDOW = 32
"""Tokens at which the window shrinks to its context: each new token decodes at most this many (some 20 µs), however long the text is."""


class Text:
    """A model's tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._special = frozenset(id for id, token in tokenizer.added_tokens_decoder.items() if token.special)

    @classmethod
    def open(cls, folder: str | Path) -> Text:
        """Read the tokenizer of a folder; `Checkpoint.small_files` has one for a model on the hub. Blocks. Raises NotAModel where there is none to read."""
        return cls(_load(str(folder)))

    def is_as(self, other: Text) -> bool:
        """Whether every id is the same text in both."""
        return bool(self.tokenizer.get_vocab() == other.tokenizer.get_vocab())

    def encode(self, prompt: str, *, continues: bool = False) -> list[int]:
        """The ids of a prompt, with the tokens the model puts around a text (such as "beginning of sequence"), or without where it `continues` a session.

        Raises EmptyPrompt, UsageError for text that is not Unicode (a terminal in another encoding leaves lone surrogates in it).
        """
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the prompt is not valid Unicode text at character {error.start}; pass it as UTF-8") from error
        ids = self.tokenizer.encode(prompt, add_special_tokens=not continues, verbose=False) if prompt else []
        if not ids:
            raise EmptyPrompt
        return list(ids)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of a conversation, ready for the model's answer, in the form of its own chat template. Messages are {"role": …, "content": …}.

        Raises EmptyPrompt without messages, UsageError when the model has no chat template or its template refuses the messages.
        """
        if not messages:
            raise EmptyPrompt
        if not self.tokenizer.chat_template:
            raise UsageError("this model has no chat template; give it a plain prompt, or choose a model that is tuned for chat")
        try:
            ids = self.tokenizer.apply_chat_template([dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=False)
        except Exception as error:  # a template is a program that came with the model, and may fail in any way
            raise UsageError(f"this model's chat template refuses these messages: {_first_line(error)}; give others, or a plain prompt") from error
        return list(ids)

    @property
    def chats(self) -> bool:
        """Whether the model has a chat format."""
        return bool(self.tokenizer.chat_template)

    def spelled(self, id: int) -> tuple[str, bytes | None]:
        """One token alone, as people are shown it, special ones too; and its bytes, None for a token that is a part of a character and does not say which."""
        text = str(self.tokenizer.decode([id], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        spelling = self._spelling(id) or ""
        if spelling.startswith("▁") and not text.startswith(" "):  # SentencePiece takes away the space before what it takes for the beginning of a text
            text = f" {text}"
        if self.is_byte(id):
            raw = bytes([int(spelling[3:5], 16)])
            return raw.decode(errors="replace"), raw
        if HALF not in text:
            return text, text.encode()
        raw = bytes(ALPHABET[letter] for letter in spelling if letter in ALPHABET)
        return text, raw if len(raw) == len(spelling) and raw.decode(errors="replace") == text else None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids without special tokens: what a Detokenizer's pieces add up to."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def detokenizer(self) -> Detokenizer:
        return Detokenizer(self)

    def stop_ids(self, eos: int | Iterable[int] | None = None) -> tuple[int, ...]:
        """The ids that end an answer, sorted. `eos` is what the model says (`eos_token_id` of its generation config, or else of its config); where it says
        nothing the tokenizer's own counts. Chat models end turns with tokens that their tokenizers do not know as the end, so the model comes first.
        """
        if eos is None:
            eos = self.tokenizer.eos_token_id
        return tuple(sorted({eos} if isinstance(eos, int) else set(eos or ())))

    def shows(self, id: int) -> bool:
        """Whether an id leaves a trace in text. Special tokens do not, nor ids beyond the vocabulary, which padded embedding matrices can give."""
        return id not in self._special and self._spelling(id) is not None

    def is_byte(self, id: int) -> bool:
        """Whether an id is one byte of a character spelled out."""
        return BYTE.fullmatch(self._spelling(id) or "") is not None

    def _spelling(self, id: int) -> str | None:
        try:
            token = self.tokenizer.convert_ids_to_tokens(id)
        except (IndexError, KeyError, OverflowError):  # tokenizers written in Python have a table, the others answer None
            return None
        return token if isinstance(token, str) else None


class Detokenizer:
    """Token ids in, text out. What is shown never changes later; what could is held back until it is sure, or until `finish`.

    It decodes a sliding window of the last tokens. Two things stay undecided: a last HALF, which more bytes may complete, and a run of spelled-out bytes,
    which SentencePiece decodes all or nothing (one stray byte at its end turns every character of the run into HALFs).
    """

    def __init__(self, text: Text) -> None:
        self._text = text
        self._window: list[int] = []
        self._shown = 0
        """Characters of the decoded window that are out already."""
        self._in_bytes = False

    def feed(self, ids: int | Iterable[int]) -> str:
        """Take in one id or several. Returns the text that became sure, often none."""
        return "".join(map(self._feed, (ids,) if isinstance(ids, int) else ids))

    def finish(self) -> str:
        """What was held back, as it is: nothing follows."""
        return self._show(self._text.decode(self._window)) if self._window else ""

    def _feed(self, id: int) -> str:
        if not self._text.shows(id):
            return ""
        self._window.append(id)
        self._in_bytes = self._text.is_byte(id)
        if self._in_bytes:
            return ""
        text = self._text.decode(self._window)
        piece = self._show(text.removesuffix(HALF))
        if len(self._window) >= WINDOW:
            self._shrink(len(text) - self._shown)
        return piece

    def _show(self, text: str) -> str:
        piece = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return piece

    def _shrink(self, held: int) -> None:
        """Forget all but the context. The decoded window ends as before, so as many characters as before are held back."""
        self._window = self._window[-CONTEXT:]
        self._shown = len(self._text.decode(self._window)) - held


def _load(folder: str) -> PreTrainedTokenizerBase:
    """The one door through which the tokenizer libraries' errors come. Broad, because `tokenizers` raises plain Exception for a file it cannot read."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise NotAModel(f"{folder} holds no tokenizer that can be read ({_first_line(error)}); a model's folder needs its tokenizer.json") from error
    if not len(tokenizer):
        raise NotAModel(f"the tokenizer of {folder} is empty; a model's folder needs its tokenizer.json")
    return tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(". :") or type(error).__name__
