"""`SwarmForCausalLM`: a swarm in the shape of one of transformers' models, for code that is written for those. `generate` with all that belongs to it, logits
and hidden states of any position, prompts in batches.

Every row of a batch is a session of its own: peers hold the caches, and this room only knows which tokens stand in each. So a cache that is reordered, cut or
copied here moves nothing: each row goes on in whichever session begins most like it, and what that lacks is computed. Knows torch, transformers and the client;
not routes, peers or links.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from swarm.client import aio
from swarm.client.options import check_options
from swarm.client.sync import Client
from swarm.errors import EmptyPrompt, UsageError
from swarm.wire import HIDDEN, LOGITS

Row = tuple[int | None, ...]
"""Token ids of one row of a batch, column by column; None where its attention mask hides the column."""


@dataclass(eq=False, slots=True)
class _Held:
    """A session, and the tokens that stand in it."""

    session: aio.Session
    tokens: list[int] = field(default_factory=list)

    def shares(self, tokens: Sequence[int]) -> int:
        if tokens[: len(self.tokens)] == self.tokens:
            return len(self.tokens)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.tokens, tokens, strict=False)))


class SwarmCache(Cache):
    """What stands for keys and values: the tokens of each row, and the sessions in which peers hold them. `limit`: how long a row may become, if known."""

    def __init__(self, client: Client, limit: int | None = None) -> None:
        super().__init__(layers=[])
        self.rows: list[Row] = []
        self.limit = limit
        self._held: list[_Held] = []
        self._client = client
        self._end = weakref.finalize(self, _close, client, self._held)

    def close(self) -> None:
        """End the sessions. Idempotent."""
        self._end()

    # --- as transformers has it -------------------------------------------------------------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return len(self.rows[0]) if self.rows else 0

    @property
    def is_compileable(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.rows = [self.rows[at] for at in beam_idx.tolist()]

    batch_select_indices = reorder_cache  # type: ignore[assignment]

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.rows = [row for row in self.rows for _ in range(repeats)]

    def crop(self, max_length: int) -> None:
        self.rows = [row[:max_length] for row in self.rows]

    # --- as we have it ----------------------------------------------------------------------------------------------------------------------------------------

    def sessions(self, rows: Sequence[Sequence[int]]) -> list[tuple[_Held, int]]:
        """For every row the session that begins most like it, and with how many of its tokens. Longest first: no row takes what suits another better."""
        pairs = sorted(
            ((held.shares(row), at, number) for at, row in enumerate(rows) for number, held in enumerate(self._held)), key=lambda pair: (-pair[0], *pair[1:])
        )
        found: dict[int, tuple[_Held, int]] = {}
        taken: set[int] = set()
        for length, at, number in pairs:
            if at not in found and number not in taken:
                found[at] = self._held[number], length
                taken.add(number)
        return [found.get(at) or self._begun() for at in range(len(rows))]

    def _begun(self) -> tuple[_Held, int]:
        held = _Held(self._client.run(lambda client: client.ready_session()))
        self._held.append(held)
        return held, 0


def _close(client: Client, held: list[_Held]) -> None:
    """Wherever the garbage collector happens to run, so nothing is waited for."""

    async def close(sessions: Sequence[aio.Session]) -> None:
        for session in sessions:
            await session.close()

    sessions = [one.session for one in held]
    held.clear()
    client.begin(lambda _: close(sessions))


class SwarmForCausalLM(PreTrainedModel, GenerationMixin):
    """Make one with `from_pretrained`, and `close` it or use it in a `with`. It holds no weights; nothing can be trained. Tensors come back on the device of
    the ids that were given; logits are float32, and everything is computed in the format of the peers (`dtype="float32"` asks for those)."""

    main_input_name = "input_ids"
    _supports_cache_class = True
    _is_stateful = False

    def __init__(self, config: Any, client: Client) -> None:
        super().__init__(config)
        self.client = client
        self.eval()

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], **options: Any) -> SwarmForCausalLM:  # type: ignore[override]
        """`model` is a hub id or a folder with configuration and tokenizer; options as for `swarm.Client`, such as `initial_peers`, `dtype`, `own_ends`."""
        check_options("SwarmForCausalLM.from_pretrained", options, aio.Client)
        client = Client(model, **options)
        try:
            checkpoint = client.run(_checkpoint)
            made = cls(checkpoint.config, client)
            try:
                made.generation_config = GenerationConfig.from_pretrained(str(checkpoint.small_files()))
            except OSError:  # it has none
                made.generation_config = GenerationConfig.from_model_config(checkpoint.config)
            return made
        except BaseException:
            client.close()
            raise

    def __enter__(self) -> SwarmForCausalLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the network. Idempotent."""
        self.client.close()

    @property
    def device(self) -> torch.device:
        """Where tensors are: peers compute elsewhere."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    # --- what transformers' generate asks ---------------------------------------------------------------------------------------------------------------------

    def generate(self, inputs: torch.Tensor | None = None, **options: Any) -> Any:  # type: ignore[override]
        """As `GenerationMixin.generate`: sampling, beam search, streamers, stopping criteria and logits processors. Tokens are drawn here, from the logits that
        peers send; `swarm.Client` has peers draw them, which is faster over long distances."""
        given, cache = options.get("past_key_values"), None
        _check_inputs(given, options.get("inputs_embeds"))
        if given is None and options.get("use_cache") is not False:
            cache = options["past_key_values"] = SwarmCache(self.client)
        try:
            output = super().generate(inputs, **options)  # type: ignore[misc]
        except BaseException:
            if cache is not None:
                cache.close()
            raise
        if cache is not None and getattr(output, "past_key_values", None) is not cache:
            cache.close()
        return output

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: Any, model_kwargs: dict[str, Any], *arguments: Any, **options: Any
    ) -> None:
        cache = model_kwargs.get("past_key_values")
        if isinstance(cache, SwarmCache):
            cache.limit = generation_config.max_length

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: torch.Tensor, past_key_values: SwarmCache | None = None, attention_mask: torch.Tensor | None = None, **options: Any
    ) -> dict[str, Any]:
        held = past_key_values.get_seq_length() if past_key_values is not None else 0
        given: dict[str, Any] = {name: options[name] for name in ("use_cache", "output_hidden_states", "return_dict") if name in options}
        keep = options.get("logits_to_keep") or 1
        return {"input_ids": input_ids[:, held:], "attention_mask": attention_mask, "past_key_values": past_key_values, "logits_to_keep": keep, **given}

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: SwarmCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits of the last `logits_to_keep` columns (0: of all), zero where the attention mask hides them. With `output_hidden_states`, `hidden_states` holds
        those behind the last norm alone, for the same columns: what is between the layers stays with the peers. The cache that is given is grown; with
        `use_cache` one is made."""
        if position_ids is not None:
            raise UsageError("peers count positions themselves; leave out position_ids, and hide columns with an attention_mask")
        if output_attentions:
            raise UsageError("peers do not send attention weights; leave out output_attentions")
        _check_inputs(past_key_values, inputs_embeds)
        cache = past_key_values if past_key_values is not None else SwarmCache(self.client)
        try:
            logits = self._read(input_ids, attention_mask, cache, logits_to_keep, LOGITS, self.config.vocab_size)
            hidden = None
            if output_hidden_states:
                hidden = self._read(input_ids, attention_mask, cache, logits_to_keep, HIDDEN, self.config.hidden_size)
            self._grow(input_ids, attention_mask, cache)
            loss = None if labels is None else self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
            kept = cache if past_key_values is not None or use_cache else None
            return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=kept, hidden_states=None if hidden is None else (hidden,))
        finally:
            if past_key_values is None and not use_cache:
                cache.close()

    def hidden_states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> BaseModelOutputWithPast:
        """`last_hidden_state` of every column, as the model without its head gives it: for embeddings, or heads of your own."""
        cache = SwarmCache(self.client)
        try:
            return BaseModelOutputWithPast(last_hidden_state=self._read(input_ids, attention_mask, cache, 0, HIDDEN, self.config.hidden_size))
        finally:
            cache.close()

    # --- inside -----------------------------------------------------------------------------------------------------------------------------------------------

    def _grow(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, cache: SwarmCache) -> None:
        cache.rows = _whole(input_ids, attention_mask, cache)

    def _read(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, cache: SwarmCache, keep: int, what: str, width: int) -> torch.Tensor:
        """What peers make of the last `keep` columns [B, K, width]."""
        from swarm.model.blobs import from_blob

        rows = _whole(input_ids, attention_mask, cache)
        count = input_ids.shape[1]
        columns = range(len(rows[0]) - (min(keep, count) if keep else count), len(rows[0]))
        wanted = [[token for token in row if token is not None] for row in rows]
        if not all(wanted):
            raise EmptyPrompt
        found = cache.sessions(wanted)
        firsts = [sum(token is not None for token in row[: columns.start]) for row in rows]

        async def read(held: _Held, shared: int, tokens: list[int], first: int) -> torch.Tensor:
            first = min(first, len(tokens) - 1)
            held.tokens = held.tokens[:shared]
            pieces = held.session.read(tokens[shared:], keep=shared, first=first, what=what, limit=cache.limit)
            read_nW = torch.cat([from_blob(blob, "cpu", torch.float32, width=width) async for blob in pieces])
            held.tokens = tokens
            return read_nW

        async def read_all(_: aio.Client) -> list[torch.Tensor]:
            work = (read(*one, tokens, first) for one, tokens, first in zip(found, wanted, firsts, strict=True))
            return list(await asyncio.gather(*work))

        out_BKW = torch.zeros(len(rows), len(columns), width)
        for at, (row, read_nW) in enumerate(zip(rows, self.client.run(read_all), strict=True)):
            shown = [k for k, column in enumerate(columns) if row[column] is not None]
            out_BKW[at, shown] = read_nW[len(read_nW) - len(shown) :]
        return out_BKW.to(input_ids.device)


def _check_inputs(past_key_values: Any, inputs_embeds: Any) -> None:
    if past_key_values is not None and not isinstance(past_key_values, SwarmCache):
        raise UsageError(
            f"keys and values stay with the peers, so a {type(past_key_values).__name__} cannot be used; leave out past_key_values, or give one "
            "that this model returned"
        )
    if inputs_embeds is not None:
        raise UsageError("peers are given token ids; leave out inputs_embeds, and give input_ids")


def _whole(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, cache: SwarmCache) -> list[Row]:
    """Every row from its first column on: what the cache holds, and what is new."""
    if input_ids.dim() != 2 or not input_ids.numel():
        raise UsageError(f"input_ids are a batch of rows of token ids, and cannot have the shape {list(input_ids.shape)}")
    before = cache.rows or [()] * len(input_ids)
    if len(before) != len(input_ids):
        raise UsageError(f"the cache holds {len(before)} rows, and {len(input_ids)} were given; begin with another cache")
    shown = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
    if shown.shape != input_ids.shape:
        raise UsageError(f"an attention mask of the shape {list(shown.shape)} does not fit ids of the shape {list(input_ids.shape)}; give one number for each")
    new: Iterator[Row] = (
        tuple(token if seen else None for token, seen in zip(*row, strict=True)) for row in zip(input_ids.tolist(), shown.tolist(), strict=True)
    )
    return [(*held, *row) for held, row in zip(before, new, strict=True)]


async def _checkpoint(client: aio.Client) -> Any:
    return client.checkpoint
