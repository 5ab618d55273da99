"""The model room's dice: logits in, tokens out. Knows nothing of spans, caches, sessions or peers, and keeps nothing between two calls.

The token at a position is argmax(filtered logits / temperature + noise), with Gumbel noise of location 0 and scale 1 (the Gumbel-max rule), which is a draw
from softmax(filtered logits / temperature). The noise is a pure function of (seed, position, token id), so a replay after a failure, another split, another
batch or a drafter sees the same noise, and one seed has one answer. A generator with state (torch's, NumPy's) could not promise that.

Noise: word `id % 4` of Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) under the counter
(id // 4, position's low 32 bits, position's high 32 bits, 0) and the key (seed's low 32 bits, seed's high 32 bits); u = (word + 1/2) / 2**32, and
noise = -log(-log(1 - u)), which reaches from -3.2 to 22.9. `gumbel` is the definition in float64; `_race` finds the same winner faster.

Filters run in torch where the logits are, the race in NumPy. Shapes: K requests, V vocabulary, N some tokens that survive the filters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.generation.logits_process import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper

from swarm.core import Sampling
from swarm.wire import Logprobs

MASK = 2**32 - 1
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""The constants of Philox4x32 in the paper and in Random123."""

MARGIN = 0.5
"""How far behind the float32 winner of a race a token may lie and still be raced again in float64. float32 noise is off by at most 0.35 (where u is nearly
1, the losing end) and by less than 1e-5 near the winning end; about e**0.5 - 1 = 0.65 tokens lie this close behind a winner, so the second race is tiny."""

COLDEST = 2.0**-100
"""Temperatures below this count as this: well above float32's subnormals, and far below any difference between two float32 logits that matters."""

Word = int | np.ndarray
"""32 random bits: a Python int, or an int64 array of many."""


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """One token to draw: the one that will stand at `position`. `history` holds every token of the session before it; only the repetition penalty reads it.

    A list of 32,768 ints costs about 1 ms to read per draw, a NumPy array or a tensor nothing.
    """

    sampling: Sampling
    position: int
    history: Sequence[int]


@dataclass(frozen=True, slots=True)
class Draw:
    """`logprobs` is None unless asked for."""

    token: int
    logprobs: Logprobs | None = None


class BadLogits(ValueError):
    """Some rows are NaN, or have no largest finite logit. `rows` are their indices: whoever batches strangers can drop those sessions and draw the others."""

    def __init__(self, rows: Sequence[int], positions: Sequence[int]) -> None:
        where = ", ".join(map(str, positions))
        super().__init__(f"the logits for position {where} are NaN or infinite: weights or activations are broken, or overflow this dtype; try --dtype float32")
        self.rows = tuple(rows)


def draw(logits_KV: torch.Tensor, requests: Sequence[DrawRequest]) -> list[Draw]:
    """Draw one token from each row of logits, on whatever device they are; the logits are left as they were.

    Filters come in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p. Ties go to the lowest id. Log-probabilities are of the
    model itself, log_softmax of its raw logits, as vLLM reports them by default: no filter makes them infinite, and they compare across settings.

    Raises BadLogits (a ValueError) naming the rows that hold no usable numbers, ValueError when rows and requests do not match.
    """
    if logits_KV.dim() != 2 or len(logits_KV) != len(requests) or 0 in logits_KV.shape[1:]:
        raise ValueError(f"{len(requests)} requests need as many rows of logits, not {list(logits_KV.shape)}")
    if not requests:
        return []
    logits_KV = logits_KV.detach().float()
    scores_KV = _penalize(logits_KV, requests)
    best_K, peaks_K = _best(scores_KV)
    if bad := [row for row, peak in enumerate(peaks_K) if not math.isfinite(peak)]:
        raise BadLogits(bad, [requests[row].position for row in bad])
    tokens = [
        best if request.sampling.temperature == 0 else _sample(scores_V - peak, request)
        for scores_V, best, peak, request in zip(scores_KV, best_K, peaks_K, requests, strict=True)
    ]
    return _with_logprobs(tokens, logits_KV, requests)


def _best(scores_KV: torch.Tensor) -> tuple[list[int], list[float]]:
    """Of every row the largest score and the lowest id that has it. torch's argmax answers the first of equals, and NaN before any number."""
    best_K = scores_KV.argmax(dim=1)
    peaks_K = scores_KV.gather(1, best_K[:, None]).squeeze(1)
    return best_K.tolist(), peaks_K.tolist()


def _penalize(logits_KV: torch.Tensor, requests: Sequence[DrawRequest]) -> torch.Tensor:
    """The repetition penalty for those who want it; without any, the very same tensor."""
    scores_KV = logits_KV
    for row, request in enumerate(requests):
        if request.sampling.repetition_penalty != 1 and len(request.history):
            if scores_KV is logits_KV:
                scores_KV = logits_KV.clone()
            history_1T = torch.as_tensor(request.history, dtype=torch.int64, device=logits_KV.device)[None]
            penalty = RepetitionPenaltyLogitsProcessor(float(request.sampling.repetition_penalty))
            scores_KV[row] = penalty(history_1T, logits_KV[row : row + 1])[0]
    return scores_KV


def _sample(shifted_V: torch.Tensor, request: DrawRequest) -> int:
    """Draw from one row whose maximum was moved to 0: the same distribution, but no temperature can make it overflow."""
    scores_N, ids_N = _filter(shifted_V, request.sampling)
    return _race(scores_N.cpu().numpy(), None if ids_N is None else ids_N.cpu().numpy(), request)


def _filter(shifted_V: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scaled scores of the tokens that survive, and their ids in rising order; None stands for the whole vocabulary."""
    nothing = torch.LongTensor()  # the warpers take the history as their first argument and do not look at it
    scores_1N = TemperatureLogitsWarper(max(float(sampling.temperature), COLDEST))(nothing, shifted_V[None])
    ids_N = None
    if 0 < sampling.top_k < len(shifted_V):
        scores_1N, ids_N = _survivors(TopKLogitsWarper(sampling.top_k)(nothing, scores_1N), ids_N)
    if sampling.top_p < 1:
        scores_1N, ids_N = _survivors(_nucleus(scores_1N, sampling.top_p), ids_N)
    if sampling.min_p > 0:
        scores_1N, ids_N = _survivors(MinPLogitsWarper(sampling.min_p)(nothing, scores_1N), ids_N)
    return scores_1N[0], ids_N


def _survivors(scores_1N: torch.Tensor, ids_N: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    kept = (scores_1N[0] > -math.inf).nonzero().squeeze(1)
    return scores_1N[:, kept], kept if ids_N is None else ids_N[kept]


def _nucleus(scores_1N: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the likeliest tokens that together hold at least `top_p`.

    transformers' TopPLogitsWarper, which the tests use as the oracle, has torch sort the whole vocabulary: 12.6 ms for 151,936 tokens. A token below
    (1 - top_p) / N cannot be in the nucleus (all N tokens that small together hold less than 1 - top_p), and of a trained model's distribution that leaves
    few to sort; half of that bound, for rounding. NumPy sorts even all of them in 0.4 ms. Equals at the edge stay together, as TopKLogitsWarper keeps them,
    where a sort would pick among them by chance.
    """
    probs_1N = scores_1N.softmax(dim=-1)
    likely_M = probs_1N[probs_1N > (1 - top_p) / 2 / probs_1N.shape[1]]
    falling_M = np.sort(likely_M.cpu().numpy())[::-1].astype(np.float64)
    before_M = falling_M.cumsum() - falling_M
    edge = falling_M[np.count_nonzero(before_M < top_p) - 1]
    return scores_1N.masked_fill(probs_1N < edge, -math.inf)


def _race(scores_N: np.ndarray, ids_N: np.ndarray | None, request: DrawRequest) -> int:
    """The id with the largest score + noise: all tokens in float32, then the few near the front once more by the definition in float64.

    float32 logarithms differ in the last bit between machines, vector widths and the tail of an array; they choose the candidates, never the winner.
    NumPy because it needs a third of torch's time here, and never waits for threads of a pool that other peers on the machine keep busy.
    """
    words_N = _words(request.sampling.seed, request.position, ids_N, len(scores_N))
    uniform_N = np.minimum((words_N.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32), np.float32(1 - 2.0**-24))
    rough_N = scores_N - np.log(-np.log1p(-uniform_N))
    near = np.flatnonzero(rough_N >= rough_N.max() - MARGIN)
    ids = near if ids_N is None else ids_N[near]
    exact = [score + noise for score, noise in zip(scores_N[near].tolist(), _gumbels(words_N[near].tolist()), strict=True)]
    return int(ids[exact.index(max(exact))])


def gumbel(seed: int, position: int, ids: Sequence[int]) -> list[float]:
    """The noise of these token ids in float64: the definition. A drafter that adds it to its own logits agrees with the head most often."""
    return _gumbels(_words(seed, position, np.asarray(ids, dtype=np.int64), len(ids)).tolist())


def _gumbels(words: Iterable[int]) -> list[float]:
    return [-math.log(-math.log1p(-(word + 0.5) * 2.0**-32)) for word in words]


def _words(seed: int, position: int, ids_N: np.ndarray | None, count: int) -> np.ndarray:
    """The random 32-bit words, as int64 [N], of these ids, or of the ids 0 … count - 1 where there are none."""
    key, place = (seed & MASK, seed >> 32), (position & MASK, position >> 32)
    if ids_N is None:
        blocks_B = np.arange((count + 3) // 4, dtype=np.int64)
        return np.stack(philox((blocks_B, *place, 0), key), axis=1).reshape(-1)[:count]
    return np.stack(philox((ids_N >> 2, *place, 0), key))[ids_N & 3, np.arange(count)]


def philox(counter: Sequence[Word], key: Sequence[int]) -> tuple[Word, ...]:
    """Philox4x32-10 of four counter words and two key words. One array among the counter words makes arrays of all four answers.

    A 64-bit product may wrap to negative; its bits are right all the same, and whatever an arithmetic shift drags in is masked away.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & MASK, p1 & MASK, ((p0 >> 32) ^ c3 ^ k1) & MASK, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def _with_logprobs(tokens: Sequence[int], logits_KV: torch.Tensor, requests: Sequence[DrawRequest]) -> list[Draw]:
    """Log-probabilities (natural log) for those who asked: the drawn token's, and the likeliest ones', equals by rising id."""
    draws = [Draw(token) for token in tokens]
    for row, request in enumerate(requests):
        if request.sampling.logprobs is not None:
            logs_V = logits_KV[row].log_softmax(dim=-1)
            top = torch.topk(logs_V, min(request.sampling.logprobs, len(logs_V)))
            pairs = sorted(zip(top.indices.tolist(), top.values.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
            draws[row] = Draw(tokens[row], Logprobs(float(logs_V[tokens[row]]), tuple(pair for pair in pairs if pair[1] > -math.inf)))
    return draws
