"""Room: client. Which peers a session begins with: those of one revision and dtype, or of a mixed class where that is allowed, as the cheapest route has it.

Knows what peers announce and what its client holds itself. Does not know sessions: once begun, one stays with its class.
"""

from __future__ import annotations

from swarm.client.planner import Surroundings
from swarm.core import ModelShape, base_dtype, is_mixed, is_rounded, mixed
from swarm.errors import MissingLayers, UsageError
from swarm.routing.atlas import Class
from swarm.routing.plan import choose_class, or_mix
from swarm.routing.route import Request
from swarm.wire import ITEM_SIZE

DTYPES = ("float32", "bfloat16", "float16")


class ClassChoice:
    """One choice, of what is announced now. `revision` is that of the client's own files, where they are enough to tell; `dtype` what its caller wants, and
    whether chains may be `mixed`."""

    def __init__(self, around: Surroundings, shape: ModelShape, revision: str | None, dtype: str | None, may_mix: bool) -> None:
        self._around, self._shape, self._revision, self._dtype, self._may_mix = around, shape, revision, dtype, may_mix

    def choose(self) -> Class:
        """Whom a session begins with. Peers that failed us lately are forgiven before it is said that nobody serves some layers. Raises MissingLayers,
        UsageError."""
        around = self._around
        for forgive in (False, True):
            exclude = around.table.shunned(around.clock(), forgive=forgive)
            request = Request(
                around.components,
                source=around.peer if around.own else None,
                source_rtts=around.rtts,
                own=around.own,
                exclude=exclude,
                shape=self._shape,
                scale=self._shape.scale(ITEM_SIZE.get(base_dtype(self._dtype or ""))),
            )
            try:
                return self._cheapest(self._may_mix, request)
            except MissingLayers as error:
                missing = error
        try:
            self._cheapest(True, request)
        except (MissingLayers, UsageError):
            raise around.trust.explained(missing) from None
        raise or_mix(missing)

    def usual_dtype(self) -> str | None:
        """What our own ends should compute in, if the caller does not mind: what the peers do. None where there are none yet: as the checkpoint has it."""
        try:
            classes = [self.choose()]
        except (MissingLayers, UsageError):
            classes = [(revision, numerics) for revision, numerics in sorted(self._around.table.atlases) if self._revision in (None, revision)]
        return next((numerics for _, numerics in classes if numerics in DTYPES or is_rounded(numerics) or is_mixed(numerics)), None)

    def _cheapest(self, may_mix: bool, request: Request) -> Class:
        table, components = self._around.table, self._around.components
        if not may_mix:
            return choose_class(table.atlases, self._revision, components, self._dtype, request)
        return choose_class(table.mixed, self._revision, components, self._dtype and mixed(self._dtype), request)
