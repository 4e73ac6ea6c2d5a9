"""Prove that every byte of a container is what was saved, and name each one that is not."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import blake3

from . import _archive
from ._archive import Entry, Source
from ._safetensors import Header, digest
from .container import COMPONENTS, PREVIEW_NAME, Container, entry_name
from .errors import FormatError
from .manifest import check_open_objects

_CHUNK = 512 * 1024
_PART = 8 * 1024 * 1024
Progress = Callable[[int], object]


class Problem(NamedTuple):
    """One thing wrong: a stable code, the entry, field or tensor at fault, a sentence."""

    code: str
    where: str
    message: str


def verify(
    path: str | os.PathLike[str], *, quick: bool = False, progress: Progress | None = None
) -> list[Problem]:
    """Find every problem of a file; an empty list means that it is intact.

    `quick` leaves out tensor digests and the CRCs of data, so an empty list then means less.
    `progress` is told the number of bytes read, from time to time: by two threads, one after the
    other. Raises ModelNotFoundError when there is no such file, and OSError when the system cannot
    read it; what is wrong with a file is returned, never raised.
    """
    try:
        container, errors = Container.salvage(path)
    except FormatError as error:
        return [_problem(error)]
    with container:
        problems = [_problem(error) for error in errors]
        try:
            problems.extend(_check(container, quick, _in_turn(progress)))
        except FormatError as error:  # the file became shorter while it was read
            problems.append(_problem(error))
        return problems


def check_member(container: Container, name: str, progress: Progress) -> Iterator[Problem]:
    """Find the problems in one member's data: digests, CRC, and the form of a preview."""
    entry = container.entry(name)
    component = name.removesuffix(_archive.ALIGNED_SUFFIX)
    if entry is None:
        return
    if component in COMPONENTS:
        weights = _Weights(container, entry, component, progress)
        _run(weights.parts)
        yield from weights.problems()
    else:
        yield from _check_small(container, entry, progress)


def _in_turn(progress: Progress | None) -> Progress:
    """The same for two threads, of which one tells at a time."""
    lock = threading.Lock()

    def tell(count: int) -> None:
        if progress is not None:
            with lock:
                progress(count)

    return tell


def _problem(error: FormatError) -> Problem:
    return Problem(error.code, error.where, error.message)


def _check(container: Container, quick: bool, progress: Progress) -> Iterator[Problem]:
    yield from map(_problem, check_open_objects(container.manifest))
    for component in container.components:
        try:
            container.header(component)
        except FormatError as error:
            yield _problem(error)
    if quick:
        return
    weights = {
        entry.name: _Weights(container, entry, component, progress)
        for component in container.components
        if (entry := container.entry(entry_name(component))) is not None
    }
    _run([part for member in weights.values() for part in member.parts])
    for entry in container.entries:
        member = weights.get(entry.name)
        yield from member.problems() if member else _check_small(container, entry, progress)


def _check_small(container: Container, entry: Entry, progress: Progress) -> Iterator[Problem]:
    data = container.source.read(entry.offset, entry.size)
    progress(len(data))
    preview = container.manifest.preview
    if entry.name == PREVIEW_NAME and preview is not None:
        if "blake3:" + digest(data) != preview.digest:
            yield Problem("digest.preview", entry.name, "is not the sound that was saved")
        if data[:4] != b"fLaC":
            yield Problem("preview.format", entry.name, "is not a FLAC file")
    yield from _check_crc(entry, _archive.crc32(data))


def _check_crc(entry: Entry, crc: int) -> Iterator[Problem]:
    if entry.crc not in (crc, -1):
        yield Problem("zip.crc", entry.name, "the bytes do not fit their CRC-32")


class _Weights:
    """A safetensors member under test: the parts in which it is hashed, and what they tell."""

    def __init__(self, container: Container, entry: Entry, component: str, progress: Progress):
        start = container.data_offset(component)
        try:
            self._header = container.header(component)
        except FormatError:  # already reported; the CRC still says something of the data
            self._header = Header({}, "", {}, 0)
        self._entry = entry
        extents = [record.data_offsets for record in self._header.records.values()]
        self._lengths = [start - entry.offset, *(end - begin for begin, end in extents)]
        there = max(0, min(entry.size, container.size - entry.offset))
        runs = _cut([*self._lengths, entry.size - sum(self._lengths)], there, _PART)
        starts = itertools.accumulate((sum(run) for run in runs), initial=entry.offset)
        self.parts = [
            _Part(container.source, at, run, progress) for at, run in zip(starts, runs, strict=False)
        ]

    def problems(self) -> Iterator[Problem]:
        """What is wrong, once every part has run."""
        name, header = self._entry.name, self._header
        found = [digest for part in self.parts for digest in part.digests][: len(self._lengths)]
        if "".join(found[1:]) != header.digests:
            for spec, digest in zip(header.tensors.values(), found[1:], strict=False):
                if spec.blake3 != digest:
                    where = f"{name}: {spec.name}"
                    yield Problem("digest.tensor", where, "is not the tensor that was saved")
        if len(found) < len(self._lengths):
            missing = f": {list(header.records)[len(found) - 1]}" if found and header.records else ""
            yield Problem("zip.truncated", name + missing, "the file ends before its last byte")
        crc = 0
        for part in self.parts:
            crc = _archive.crc32_combine(crc, part.crc, part.size)
        yield from _check_crc(self._entry, crc)


def _cut(lengths: list[int], there: int, limit: int) -> list[list[int]]:
    """Spans in runs of at most `limit` bytes or of one span, as far as the file goes."""
    runs: list[list[int]] = [[]]
    size = 0
    for length in lengths:
        if length > there:
            break
        if runs[-1] and size + length > limit:
            runs.append([])
            size = 0
        runs[-1].append(length)
        size += length
        there -= length
    return runs


def _run(parts: list[_Part]) -> None:
    """Run parts in two threads, if there is work for two; what either raises is raised."""
    waiting = iter(parts)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for part in waiting:
                part.run()
        except BaseException as error:
            failed.append(error)
            for _ in waiting:  # an interrupt or a failure ends both
                pass

    helper = threading.Thread(target=work)
    if len(parts) > 1 and sum(part.size for part in parts) > _CHUNK:
        helper.start()
    work()
    if helper.ident:
        helper.join()
    if failed:
        raise failed[0]


class _Part:
    """Adjoining spans of a file, hashed in one pass through one buffer."""

    def __init__(self, source: Source, start: int, lengths: list[int], progress: Progress):
        self.size = sum(lengths)
        self.digests: list[str] = []
        self.crc = 0
        self._hasher = blake3.blake3()
        self._lengths = lengths
        self._source, self._start, self._progress = source, start, progress

    def run(self) -> None:
        """Read, and note the CRC-32 of all spans and the BLAKE3 of each; small ones are read together."""
        position = self._start
        buffer = memoryview(bytearray(min(_CHUNK, self.size)))
        for lengths in _cut(self._lengths, self.size, _CHUNK):
            if len(lengths) == 1:
                self._hash_one(position, lengths[0], buffer)
            else:
                self._hash_several(position, lengths, buffer)
            position += sum(lengths)
            self._progress(sum(lengths))

    def _hash_one(self, position: int, length: int, buffer: memoryview) -> None:
        end = position + length
        while position < end:
            chunk = buffer[: end - position]
            self._read(position, chunk)
            self._hasher.update(chunk)
            position += len(chunk)
        self._note_digest()

    def _hash_several(self, position: int, lengths: list[int], buffer: memoryview) -> None:
        chunk = buffer[: sum(lengths)]
        self._read(position, chunk)
        begin = 0
        for length in lengths:
            self._hasher.update(chunk[begin : begin + length])
            self._note_digest()
            begin += length

    def _note_digest(self) -> None:
        self.digests.append(self._hasher.hexdigest())
        self._hasher.reset()  # half the price of another hasher

    def _read(self, position: int, chunk: memoryview) -> None:
        self._source.read_into(position, chunk)
        self.crc = _archive.crc32(chunk, self.crc)
