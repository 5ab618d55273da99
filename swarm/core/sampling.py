"""Room: core. How the head draws a token."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import InvalidSampling


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the head draws a token. `temperature` 0 is greedy. Draws are keyed by (seed, position), so one seed gives one answer.

    `stop_ids` end the generation with the token that stops included in neither text nor count; an empty tuple goes on to the end. `logprobs` is how many
    alternatives are reported beside each drawn token, None for no report at all. `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 mean "off".
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Raises InvalidSampling, also when it comes from the wire. Written as `not (inside)` so that NaN fails too."""
        for name in ("top_k", "seed", *(() if self.logprobs is None else ("logprobs",))):
            if not isinstance(getattr(self, name), int):
                raise InvalidSampling(f"{name} must be a whole number, not {getattr(self, name)!r}")
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            if not isinstance(getattr(self, name), int | float):
                raise InvalidSampling(f"{name} must be a number, not {getattr(self, name)!r}")
        if not all(isinstance(token, int) and token >= 0 for token in self.stop_ids):
            raise InvalidSampling(f"stop token ids are whole numbers from 0 on, not {list(self.stop_ids)!r:.80}")
        if not 0 <= self.temperature <= 100:
            raise InvalidSampling(f"temperature must be between 0 (greedy) and 100, not {self.temperature}")
        if not 0 <= self.top_k <= 2**31:
            raise InvalidSampling(f"top_k must be 0 (off) or a positive number of tokens, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InvalidSampling(f"top_p must be above 0 and at most 1 (off), not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise InvalidSampling(f"min_p must be between 0 (off) and 1, not {self.min_p}")
        if not 0 < self.repetition_penalty <= 100:
            raise InvalidSampling(f"repetition_penalty must be above 0 and at most 100 (1 is off), not {self.repetition_penalty}")
        if not 0 <= self.seed < 2**63:
            raise InvalidSampling(f"seed must be between 0 and 2**63 - 1, not {self.seed}")
        if self.logprobs is not None and not 0 <= self.logprobs <= 20:
            raise InvalidSampling(f"logprobs must be between 0 and 20 alternatives, not {self.logprobs}")
        if len(self.stop_ids) > 256:
            raise InvalidSampling(f"at most 256 stop token ids are possible, not {len(self.stop_ids)}")
