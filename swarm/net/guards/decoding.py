"""Guard: how deep a payload may nest. In the room `net`; knows hivemind's decoder, nothing of records.

Our own code decodes what strangers send with `swarm/wire/`. hivemind's decoder is left where it reads what we have checked, and this is the net below.
"""

from __future__ import annotations

import logging
import threading

from hivemind.utils.serializer import MSGPackSerializer

MAX_EXT_DEPTH = 4
"""Extension types within extension types. hivemind itself needs two (a dictionary of tuples)."""

_depth = threading.local()


def limit_depth() -> None:
    """Idempotent."""
    if MSGPackSerializer.__dict__["_decode_ext_types"].__func__ is not _decode_ext_types:
        MSGPackSerializer._decode_ext_types = classmethod(_decode_ext_types)


_original = MSGPackSerializer.__dict__["_decode_ext_types"].__func__


def _decode_ext_types(cls: type[MSGPackSerializer], type_code: int, data: bytes) -> object:
    """Every extension type is decoded by a decoder within the decoder: some 200 of them nested, 937 bytes, overflow the C stack and kill the process."""
    depth = getattr(_depth, "value", 0)
    if depth >= MAX_EXT_DEPTH:
        raise ValueError(f"extension types nested deeper than {MAX_EXT_DEPTH}")
    if type_code != cls._TUPLE_EXT_TYPE_CODE and type_code not in cls._ext_type_codes:
        raise ValueError("unknown extension type")  # hivemind would write a line of log for each
    _depth.value = depth + 1
    try:
        return _original(cls, type_code, data)
    finally:
        _depth.value = depth


def set_logging(debug: bool) -> None:
    """hivemind reports each unreachable peer and each refused record with a traceback: strangers' doing, of no use to the person at the keyboard."""
    logging.getLogger("hivemind").setLevel(logging.DEBUG if debug else logging.CRITICAL)
