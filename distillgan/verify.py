"""Prove that every byte of a container is what was saved, and name each one that is not."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import blake3

from . import _archive
from ._archive import Entry, Source
from ._safetensors import Header, digest
from .container import COMPONENTS, PREVIEW_NAME, Container
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
    `progress` is told the number of bytes read, from time to time. Raises ModelNotFoundError when
    there is no such file; what is wrong with a file is returned, never raised.
    """
    try:
        container, errors = Container.salvage(path)
    except FormatError as error:
        return [_problem(error)]
    with container:
        problems = [_problem(error) for error in errors]
        try:
            problems.extend(_check(container, quick, progress or (lambda _: None)))
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
        yield from _check_component(container, entry, component, progress)
    else:
        yield from _check_small(container, entry, progress)


def _problem(error: FormatError) -> Problem:
    return Problem(error.code, error.where, error.message)


def _check(container: Container, quick: bool, progress: Progress) -> Iterator[Problem]:
    yield from map(_problem, check_open_objects(container.manifest))
    for component in container.components:
        try:
            container.header(component)
        except FormatError as error:
            yield _problem(error)
    if not quick:
        for entry in container.entries:
            yield from check_member(container, entry.name, progress)


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


def _check_component(
    container: Container, entry: Entry, component: str, progress: Progress
) -> Iterator[Problem]:
    start = container.data_offset(component)
    try:
        header = container.header(component)
    except FormatError:  # already reported; the CRC still says something of the data
        header = Header({}, "", {}, 0)
    extents = [record.data_offsets for record in header.records.values()]
    lengths = [start - entry.offset, *(end - begin for begin, end in extents)]
    crc, digests = _hash(container, entry, lengths, progress)
    if "".join(digests[1:]) != header.digests:
        yield from _compare(header, entry, digests)
    if len(digests) < len(lengths):
        missing = f": {list(header.records)[len(digests) - 1]}" if digests and extents else ""
        yield Problem("zip.truncated", entry.name + missing, "the file ends before its last byte")
    yield from _check_crc(entry, crc)


def _compare(header: Header, entry: Entry, digests: list[str]) -> Iterator[Problem]:
    for spec, found in zip(header.tensors.values(), digests[1:], strict=False):
        if spec.blake3 != found:
            where = f"{entry.name}: {spec.name}"
            yield Problem("digest.tensor", where, "is not the tensor that was saved")


def _check_crc(entry: Entry, crc: int) -> Iterator[Problem]:
    if entry.crc not in (crc, -1):
        yield Problem("zip.crc", entry.name, "the bytes do not fit their CRC-32")


def _hash(
    container: Container, entry: Entry, lengths: list[int], progress: Progress
) -> tuple[int, list[str]]:
    """The CRC-32 of an entry, and the BLAKE3 of each span of the given lengths that is there.

    Large entries are cut into parts between spans, for two threads.
    """
    source, there = container.source, max(0, min(entry.size, container.size - entry.offset))
    parts = _cut([*lengths, entry.size - sum(lengths)], there, _PART)
    starts = itertools.accumulate((sum(part) for part in parts), initial=entry.offset)
    jobs = [_Part(source, start, part, progress) for start, part in zip(starts, parts, strict=False)]
    if len(jobs) > 1:
        from concurrent.futures import ThreadPoolExecutor  # 10 ms that a small file should not cost

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_Part.run, jobs))
    else:
        jobs[0].run()
    crc = 0
    for job in jobs:
        crc = _archive.crc32_combine(crc, job.crc, sum(job.lengths))
    return crc, [digest for job in jobs for digest in job.digests][: len(lengths)]


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


class _Part:
    """Adjoining spans of a file, hashed in one pass through one buffer."""

    def __init__(self, source: Source, start: int, lengths: list[int], progress: Progress):
        self.lengths = lengths
        self.digests: list[str] = []
        self.crc = 0
        self._source, self._start, self._progress = source, start, progress

    def run(self) -> None:
        """Read, and note the CRC-32 of all spans and the BLAKE3 of each; small ones are read together."""
        position, size = self._start, sum(self.lengths)
        buffer = memoryview(bytearray(min(_CHUNK, size)))
        for lengths in _cut(self.lengths, size, _CHUNK):
            if len(lengths) == 1:
                self._hash_one(position, lengths[0], buffer)
            else:
                self._hash_several(position, lengths, buffer)
            position += sum(lengths)
            self._progress(sum(lengths))

    def _hash_one(self, position: int, length: int, buffer: memoryview) -> None:
        hasher, end = blake3.blake3(), position + length
        while position < end:
            chunk = buffer[: end - position]
            self._read(position, chunk)
            hasher.update(chunk)
            position += len(chunk)
        self.digests.append(hasher.hexdigest())

    def _hash_several(self, position: int, lengths: list[int], buffer: memoryview) -> None:
        chunk = buffer[: sum(lengths)]
        self._read(position, chunk)
        begin = 0
        for length in lengths:
            self.digests.append(digest(chunk[begin : begin + length]))
            begin += length

    def _read(self, position: int, chunk: memoryview) -> None:
        self._source.read_into(position, chunk)
        self.crc = _archive.crc32(chunk, self.crc)
