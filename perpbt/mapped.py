"""Large arrays, in memory or in files: what does not fit is mapped, and its pages are given back while the process is near its bound.

In: shapes. Out: arrays that kernels, numpy and polars read as any other. A file has no name: it is gone with its array, and with the
process however that ends. What a page holds is kept by the system, so giving one back costs no more than asking for it again.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from perpbt.errors import RunError

TICK = 0.001  # seconds between two looks at how much the process holds
AT_LEAST = 4 << 20  # bytes of pages that are worth giving back
SLACK = 96 << 20  # for pages that come while nobody looks
AT_A_TIME = 1 << 16  # bytes of a write: what is written as one, a system may map as one
LINES = 128  # bytes of two lines of the cache, which processors fetch together
STATM = Path("/proc/self/statm")
Array = npt.NDArray[Any]


def pieces(size: int, step: int) -> Iterator[tuple[int, int]]:
    """[0, size) in pieces of `step`, the last one shorter. Before each is a good moment to give back what need not be held."""
    for first in range(0, size, step):
        for shelf in tuple(_OPEN):
            shelf.relieve()
        yield first, min(first + step, size)


class Shelf:
    """Makes large arrays: in memory."""

    step: int | None = None  # bars to work on at a time; None: all

    def array(self, shape: tuple[int, ...], kind: npt.DTypeLike) -> Array:
        """An array of zeros, to be filled by `write`; it begins where a line of the cache does, for kernels that read eight numbers at a time."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        room = np.zeros(size + LINES, dtype=np.uint8)
        start = -room.ctypes.data % LINES
        return room[start : start + size].view(kind).reshape(shape)

    def write(self, array: Array, at: tuple[int, ...], values: Array) -> None:
        """Fill a whole array of this shelf from entry `at` on: (row, column) or (entry,)."""
        row = array[at[0]] if len(at) > 1 else array
        row[at[-1] : at[-1] + values.size] = values

    def windows(self, bars: int) -> Iterator[tuple[int, int]]:
        """First and last bar of what is to be worked on at a time."""
        return pieces(bars, self.step or max(bars, 1))

    def relieve(self) -> None:
        """Give back what need not be held."""


MEMORY = Shelf()


class Mapping(mmap.mmap):
    """A mapped file that knows its file."""

    file = -1

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)


class Files(Shelf):
    """Makes arrays that live in files of `folder`, and keeps the process under `limit` bytes as far as their pages go.

    They may take half of what everything else leaves, and must leave SLACK. A thread of its own looks every millisecond, because
    nothing else can: a kernel may walk over all of an array before it returns. Where a system does not say what a process holds,
    taking pages back is left to that system.
    """

    step: int

    def __init__(self, folder: Path | None, limit: int, step: int) -> None:
        self.folder, self.limit, self.step = folder, limit, step
        self._maps: list[weakref.ref[Mapping]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._watch: threading.Thread | None = None
        self._others = 0  # bytes of libraries and the like, which are files too

    def array(self, shape: tuple[int, ...], kind: npt.DTypeLike) -> Array:
        """As in memory. Raises `RunError` where there is no room for it."""
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        if not size:
            return np.zeros(shape, dtype=kind)
        try:
            mapped = mapping(self.folder, size)
        except OSError as error:
            raise RunError(f"{self.folder}: no room for what memory has no room for: {error}") from error
        with self._lock:
            self._maps = [one for one in self._maps if one() is not None] + [weakref.ref(mapped)]
        self._begin()
        return np.ndarray(shape, dtype=kind, buffer=mapped)

    def write(self, array: Array, at: tuple[int, ...], values: Array) -> None:
        """As in memory. Goes past the mapping, whose pages would be fetched first and counted."""
        mapped = array.base
        if not isinstance(mapped, Mapping) or not hasattr(os, "pwrite"):
            super().write(array, at, values)
            return
        place = int(np.ravel_multi_index(at, array.shape)) * array.itemsize
        rest = memoryview(np.ascontiguousarray(values, dtype=array.dtype)).cast("B")
        while rest:
            done = os.pwrite(mapped.file, rest[:AT_A_TIME], place)
            place, rest = place + done, rest[done:]

    def release(self) -> None:
        """Give back all pages; what they hold stays."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        with self._lock:
            for one in self._maps:
                mapped = one()
                if mapped is not None:
                    mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Look no more. Arrays that somebody holds stay."""
        _OPEN.discard(self)
        self._over.set()
        if self._watch is not None:
            self._watch.join()
            self._watch = None

    def _begin(self) -> None:
        if self._watch is None and not self._over.is_set() and STATM.exists():
            self._others = resident()[1]
            _OPEN.add(self)
            self._watch = threading.Thread(target=self._look, daemon=True)
            self._watch.start()

    def _look(self) -> None:
        while not self._over.wait(TICK):
            self.relieve()

    def relieve(self) -> None:
        """Give back all pages where they have become too many."""
        if self._watch is None:
            return
        held, of_files = resident()
        pages = of_files - self._others
        left = self.limit - (held - pages)
        if pages > max(AT_LEAST, min(left // 2, left - SLACK)):
            self.release()
            self._others = resident()[1]


_OPEN: weakref.WeakSet[Files] = weakref.WeakSet()


def resident() -> tuple[int, int]:
    """Bytes this process holds, and how many of these are pages of files."""
    words = STATM.read_text(encoding="ascii").split()
    page = os.sysconf("SC_PAGE_SIZE")
    return int(words[1]) * page, int(words[2]) * page


def mapping(folder: Path | None, size: int) -> Mapping:
    """A file without a name, mapped. Its place on disk is taken at once: a page without one would end the process when it is written."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            blank = bytes(1 << 20)
            for first, last in pieces(size, len(blank)):
                file.write(blank[: last - first])
        mapped = Mapping(file.fileno(), size)
        mapped.file = os.dup(file.fileno())
        return mapped
