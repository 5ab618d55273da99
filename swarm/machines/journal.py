"""The outputs a hop keeps, by position, so that whoever follows it can be fed again. Knows bytes and positions, nothing of sessions."""

from __future__ import annotations

from swarm.wire import Blob

COPIED = 16 * 2**20
"""Bytes of a prefix copied at most, which takes some milliseconds. Without them a successor that lacks the prefix has it computed anew."""


class Journal:
    """Rows [start, stop) of one hop's output in one growing buffer; the oldest go when it holds more than `budget` bytes."""

    def __init__(self, budget: int) -> None:
        self.start = 0
        self.stop = 0
        self._budget = budget
        self._data = bytearray()
        self._dtype = ""
        self._width = 0

    @property
    def row_bytes(self) -> int:
        """Of one row; 0 where there are none."""
        return len(self._data) // (self.stop - self.start) if self.stop > self.start else 0

    def append(self, rows: Blob) -> None:
        self._dtype, self._width = rows.dtype, rows.width
        self._data += rows.data
        self.stop += len(rows)
        if (excess := len(self._data) - self._budget) > 0:
            drop = min(-(-excess // rows.row_bytes), self.stop - self.start - len(rows))
            del self._data[: drop * rows.row_bytes]
            self.start += drop

    def rows(self, start: int, stop: int) -> Blob:
        """A copy of rows [start, stop), which must all be there."""
        if not self.start <= start < stop <= self.stop:
            raise IndexError(f"rows [{start}, {stop}) of a journal that holds [{self.start}, {self.stop})")
        size = self.row_bytes
        return Blob(self._dtype, self._width, memoryview(bytes(self._data[(start - self.start) * size : (stop - self.start) * size])))

    def prefix(self, length: int) -> Journal:
        """Another one with the rows below `length`, or with none where those are too many to be copied while everybody waits."""
        twin = Journal(self._budget)
        twin.start, twin.stop = self.start, max(min(self.stop, length), self.start)
        twin._dtype, twin._width = self._dtype, self._width
        size = (twin.stop - twin.start) * self.row_bytes
        if size > COPIED or self.start > length or twin.stop < length:
            twin.start = twin.stop = length
        else:
            twin._data = self._data[:size]
        return twin

    def truncate(self, length: int) -> None:
        """Forget rows from `length` on; whatever follows is appended there."""
        size = self.row_bytes
        if length < self.stop:
            keep = max(length - self.start, 0)
            del self._data[keep * size :]
            self.stop = length
            self.start = min(self.start, length)
