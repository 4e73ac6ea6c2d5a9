"""Prove that every byte of a container is what was saved, and name each one that is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import blake3

from . import _archive
from ._archive import Entry
from ._safetensors import digest
from .container import COMPONENTS, PREVIEW_NAME, Container
from .errors import FormatError
from .manifest import check_open_objects

_CHUNK = 1024 * 1024
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
        return problems + list(_check(container, quick, progress or (lambda _: None)))


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
        specs = list(container.header(component).tensors.values())
    except FormatError:  # already reported; the CRC still says something of the data
        specs = []
    lengths = [start - entry.offset, *(spec.nbytes for spec in specs)]
    crc, digests = _hash(container, entry, lengths, progress)
    for spec, found in zip(specs, digests[1:], strict=False):
        if spec.blake3 != found:
            where = f"{entry.name}: {spec.name}"
            yield Problem("digest.tensor", where, "is not the tensor that was saved")
    if len(digests) < len(lengths):
        missing = f": {specs[len(digests) - 1].name}" if digests and specs else ""
        yield Problem("zip.truncated", entry.name + missing, "the file ends before its last byte")
    yield from _check_crc(entry, crc)


def _check_crc(entry: Entry, crc: int) -> Iterator[Problem]:
    if entry.crc not in (crc, -1):
        yield Problem("zip.crc", entry.name, "the bytes do not fit their CRC-32")


def _hash(
    container: Container, entry: Entry, lengths: list[int], progress: Progress
) -> tuple[int, list[str]]:
    """The CRC-32 of an entry, and the BLAKE3 of each span of the given lengths that is there."""
    crc = 0
    digests: list[str] = []
    hasher, left = blake3.blake3(), lengths[0]
    for chunk in _chunks(container.source.read, entry.offset, entry.offset + entry.size):
        crc = _archive.crc32(chunk, crc)
        view = memoryview(chunk)
        while len(digests) < len(lengths) and (view or not left):
            taken = min(left, len(view))
            hasher.update(view[:taken])
            view, left = view[taken:], left - taken
            if not left:
                digests.append(hasher.hexdigest())
                hasher = blake3.blake3()
                left = lengths[len(digests)] if len(digests) < len(lengths) else 0
        progress(len(chunk))
    return crc, digests


def _chunks(read: _archive.Read, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of a range, each chunk read while the one before is in use."""
    from concurrent.futures import ThreadPoolExecutor  # 10 ms that opening a file should not cost

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(read, begin, min(_CHUNK, end - begin))
        while begin < end and (chunk := pending.result()):
            begin += len(chunk)
            pending = pool.submit(read, begin, min(_CHUNK, end - begin))
            yield chunk
