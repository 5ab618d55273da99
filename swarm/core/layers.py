"""Room: core. How people spell parts of a model (`--layers`), and how we spell them back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from swarm.core.spans import Span, merge_spans
from swarm.errors import LayersOutOfRange, MalformedLayers

_RANGE = re.compile(r"(\d+):(\d+)")


def parse_layers(text: str, layers: int) -> tuple[Span, ...]:
    """Read what `--layers` accepts: `0:12`, `embed`, `head`, or several joined by commas, into sorted, merged spans of components.

    A range of layers takes `embed` along where it begins at layer 0 and `head` where it ends at the last layer, unless either is spelled out anywhere in
    the text, in which case it is taken literally.

    Raises MalformedLayers for text that is none of this, LayersOutOfRange for layers the model does not have.
    """
    parts = [part.strip() for part in text.split(",")]
    spelled_out = "embed" in parts or "head" in parts
    spans = []
    for part in parts:
        if part == "embed":
            spans.append(Span(0, 1))
        elif part == "head":
            spans.append(Span(layers + 1, layers + 2))
        elif match := _RANGE.fullmatch(part):
            start, stop = int(match[1]), int(match[2])
            if start >= stop:
                raise MalformedLayers(part)
            if stop > layers:
                raise LayersOutOfRange(part, layers)
            first = 0 if start == 0 and not spelled_out else start + 1
            last = layers + 2 if stop == layers and not spelled_out else stop + 1
            spans.append(Span(first, last))
        else:
            raise MalformedLayers(part)
    return merge_spans(spans)


def even_split(layers: int, peers: int) -> tuple[str, ...]:
    """Ranges as `--layers` takes them, one for each of no more peers than layers, as even as can be."""
    cuts = [round(layers * at / peers) for at in range(peers + 1)]
    return tuple(f"{start}:{stop}" for start, stop in pairwise(cuts))


ENDLESS = 10**100
"""Layers of a model of which nothing is known yet."""


AUTO = "auto"
"""What `--layers` accepts instead of layers: let the peer choose."""


def check_layers(text: str, layers: int | None = None) -> None:
    """What can be said of `--layers` before a model is opened; `layers` is how many it has, where that is known. Raises what `parse_layers` does."""
    if text == AUTO:
        return
    try:
        parse_layers(text, layers or ENDLESS)
    except MalformedLayers as error:
        raise MalformedLayers(text) from error


def format_layers(spans: Iterable[Span], layers: int) -> str:
    """Spell spans as `--layers` does, so that `parse_layers` gives them back. (The one part that cannot be spelled: layers that reach an end of the model
    alone, without `embed` or `head`. Read again, they take that end along.)"""
    merged = merge_spans(spans)
    parts = [_format_span(span, layers) for span in merged]
    short = ",".join(text for text in (_short(span, layers) for span in merged) if text)
    if short and "," not in short and parse_layers(short, layers) == merged:
        return short
    return ",".join(parts)


def _short(span: Span, layers: int) -> str:
    start, stop = max(span.start - 1, 0), min(span.stop - 1, layers)
    return f"{start}:{stop}" if start < stop else ""


def _format_span(span: Span, layers: int) -> str:
    parts = []
    if 0 in span:
        parts.append("embed")
    if short := _short(span, layers):
        parts.append(short)
    if layers + 1 in span:
        parts.append("head")
    return ",".join(parts)
