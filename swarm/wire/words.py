"""Room: wire. The words that messages are made of: bounded numbers and texts, rows of activations, and what a message is."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

VERSION = 1

MAX_MESSAGE = 48 * 2**20
"""Bytes of one encoded message: 1024 positions × hidden 8192 × float32 = 32 MiB, with room to spare. Of a stranger we hold 64 MiB at most, with what it takes
to read a message."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
Index = Annotated[int, Meta(ge=-1, le=2**12)]
TokenId = Annotated[int, Meta(ge=0, le=2**31)]
Text = Annotated[str, Meta(max_length=512)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]
Session = Annotated[bytes, Meta(min_length=16, max_length=16)]
TokenIds = Annotated[tuple[TokenId, ...], Meta(max_length=2**20)]
Micros = Annotated[tuple[Count, ...], Meta(max_length=2**10)]
"""Of each hop of a route, one."""

MOST_FIELDS = 256
"""Fields of a message of tomorrow. Each is an object of 80 bytes once decoded, so that 48 MiB of them would be 4 GB."""

ITEM_SIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number for every dtype that may travel as it is; anything but these and COMPRESSED is refused."""

COMPRESSED, GROUP = "int8", 32
"""Rows with less in them: each number in one byte, and behind the numbers of a row a scale in bfloat16 for every GROUP of them, so that a large one costs
its neighbours their precision, and nobody else."""


def row_size(dtype: str, width: int) -> int:
    """Bytes of a row."""
    return width + 2 * -(-width // GROUP) if dtype == COMPRESSED else ITEM_SIZE[dtype] * width


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """Rows of activations as they travel: row-major `rows × width` numbers of `dtype`, or COMPRESSED. Slicing by rows copies nothing."""

    dtype: str
    width: Annotated[int, Meta(ge=1, le=2**20)]
    data: memoryview

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_SIZE and self.dtype != COMPRESSED:
            raise ValueError(f"dtype {self.dtype!r} does not travel")
        if self.data.nbytes % self.row_bytes:
            raise ValueError(f"{self.data.nbytes} bytes are no whole rows of {self.width} {self.dtype}")

    @property
    def row_bytes(self) -> int:
        return row_size(self.dtype, self.width)

    def __len__(self) -> int:
        return self.data.nbytes // self.row_bytes

    def __getitem__(self, rows: slice) -> Blob:
        start, stop, _ = rows.indices(len(self))
        return Blob(self.dtype, self.width, self.data[start * self.row_bytes : stop * self.row_bytes])


def compressed(*blobs: Blob | None) -> bool:
    """Whether any is, so that only who `compresses` can make something of it."""
    return any(blob is not None and blob.dtype == COMPRESSED for blob in blobs)


class Logprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability (natural log) of the drawn token, and the `top` alternatives, likeliest first."""

    drawn: float
    top: Annotated[tuple[tuple[TokenId, float], ...], Meta(max_length=20)] = ()


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Something one peer says to another over their link."""


class SessionMessage(Message, frozen=True, array_like=True):
    """About one session. `to` is the index of the hop it is addressed to in the session's chain, −1 for the client."""

    session: Session
    chain: Count
    to: Index
