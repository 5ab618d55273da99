"""Room: model. Which component lies where: on which device, in host memory to be streamed to one, or on disk. Pure arithmetic over bytes; knows no torch.

Components stand in order, and each device takes a contiguous stretch of them, as large as its memory: a step then changes devices once for each. Where devices
cannot hold all, some layers stay in host memory and are copied in before they run, into one of two buffers. Those are spread evenly among the others, so that a
copy has several layers' time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from swarm.core import Span

BUFFERS = 2
"""Places on a device for streamed layers: one runs, the next arrives."""

LEVELS = 2**20
"""How finely devices are filled alike."""

ON_DISK = ("embed", "head")
"""What may stay on disk: few rows of an embedding are looked up, and a head is read once a step. Layers would be read as often, and there are many."""

HOST = "cpu"


@dataclass(frozen=True, slots=True)
class Layout:
    """`on` has the device of every component held, `streamed` those that wait in host memory, `mapped` those on disk. `devices` are in order."""

    devices: tuple[str, ...]
    on: Mapping[int, str]
    streamed: frozenset[int] = frozenset()
    mapped: frozenset[int] = frozenset()

    @classmethod
    def alone(cls, device: str, spans: Iterable[Span], mapped: Iterable[int] = ()) -> Layout:
        """Everything on one device."""
        held = _held(spans)
        here = frozenset(mapped) & frozenset(held)
        return cls((device,), {i: HOST if i in here else device for i in held}, mapped=here)

    @property
    def entry(self) -> str:
        """Where rows come in, and where everything is that is no component's."""
        return next((self.on[i] for i in sorted(self.on) if i not in self.mapped), self.devices[0])

    @property
    def is_spread(self) -> bool:
        """Whether some layers may take longer than others."""
        return bool(self.streamed) or len({self.on[i] for i in self.on if i not in self.mapped}) > 1


def mapped_components(on_disk: Iterable[str], components: int) -> frozenset[int]:
    """Numbers of what ON_DISK names."""
    numbers = dict(zip(ON_DISK, (0, components - 1), strict=True))
    return frozenset(numbers[name] for name in on_disk)


def lay_out(
    spans: Iterable[Span], weights: Sequence[int], cached: Sequence[int], rooms: Mapping[str, int], host: int = 0, mapped: Iterable[int] = ()
) -> Layout | None:
    """Where the components of `spans` go, given bytes of weights and of cache of every component of the model, bytes free on each device, in order, and for
    streamed layers on the host. `mapped` are 0 among the weights. As few layers are streamed as must be; None where even that does not fit."""
    held, here = _held(spans), frozenset(mapped)
    layers = [i for i in held if 0 < i < len(weights) - 1]
    largest = max((weights[i] for i in layers), default=0)
    for count in (0, *range(BUFFERS + 1, len(layers) + 1)):
        streamed = frozenset(layers[at * len(layers) // count] for at in range(count))
        if sum(weights[i] for i in streamed) > host:
            break
        costs = {i: cached[i] + (0 if i in streamed else weights[i]) for i in held}
        free = {device: room - (BUFFERS * largest if streamed else 0) for device, room in rooms.items()}
        if (on := _stretches(held, costs, free)) is not None:
            return Layout(tuple(rooms), {i: HOST if i in here else on[i] for i in held}, streamed, here & frozenset(held))
    return None


def capacity(weights: Sequence[int], cached: Sequence[int], rooms: Mapping[str, int], host: int = 0) -> int:
    """Bytes such that whatever contiguous components cost no more, weights and cache together, can be laid out."""
    costs = [weight + cache for weight, cache in zip(weights, cached, strict=True)]
    plain = max(sum(rooms.values()) - (len(rooms) - 1) * max(costs), 0)  # a component that does not fit at the end of a stretch leaves so much unused
    largest, ends = max(weights[1:-1]), costs[0] + costs[-1]
    if host < (BUFFERS + 1) * largest or plain < ends + BUFFERS * max(costs[1:-1]):
        return plain  # nothing can be streamed, or not of the shortest windows
    free = plain - (len(rooms) * BUFFERS + 1) * largest  # whole layers are streamed: up to one more than must be
    stays = max(cache / cost if cost else 1.0 for cache, cost in zip(cached[1:-1], costs[1:-1], strict=True))
    streaming = min(free + host - largest, (free - ends) / stays if stays else inf)  # caches and ends are never streamed
    return max(plain, int(streaming))


def _held(spans: Iterable[Span]) -> list[int]:
    return sorted({i for span in spans for i in range(span.start, span.stop)})


def _stretches(held: Sequence[int], costs: Mapping[int, int], rooms: Mapping[str, int]) -> dict[int, str] | None:
    """Contiguous stretches, one device full to the same share as the next."""
    if len(rooms) == 1:
        (device, room), *_ = rooms.items()
        return dict.fromkeys(held, device) if sum(costs.values()) <= room else None

    def filled(level: int) -> dict[int, str] | None:
        return _first_fit(held, costs, {device: room * level // LEVELS for device, room in rooms.items()})

    return filled(bisect_left(range(LEVELS), True, key=lambda level: filled(level) is not None))


def _first_fit(held: Sequence[int], costs: Mapping[int, int], rooms: Mapping[str, int]) -> dict[int, str] | None:
    on: dict[int, str] = {}
    left = iter(rooms.items())
    device, room = next(left)
    for i in held:
        while costs[i] > room:
            if (following := next(left, None)) is None:
                return None
            device, room = following
        on[i] = device
        room -= costs[i]
    return on
