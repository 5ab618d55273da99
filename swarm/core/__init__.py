"""The nouns every room shares. Pure values: no I/O, no clock, no torch, no wire format.

A model is an ordered list of *components*: `embed` is component 0, transformer layer i is component i + 1, and `head` (final norm, LM head, sampler) is the
last one, so a model of L layers has L + 2 components. Everything that speaks of "which part" uses component indices; only people are shown layer numbers.
"""

from swarm.core.ids import CLIENT, Epoch, HopKey, PeerId, SessionId, digest_of
from swarm.core.layers import AUTO, ENDLESS, check_layers, even_split, format_layers, parse_layers
from swarm.core.model import LengthScaling, ModelShape
from swarm.core.numerics import ROUNDED_BITS, base_dtype, is_mixed, is_rounded, may_serve, mixed, rounding
from swarm.core.sampling import Sampling
from swarm.core.slabs import FIRST_SLAB, longest_after_cut, slab_after_cut, slab_size
from swarm.core.spans import LONGEST_ADDR, MOST_ADDRS, Hop, Span, check_cover, merge_spans, missing_spans, on_one_machine, whole
from swarm.core.told import MOST_NAME, harmless, printable, readable, short_id, texts
