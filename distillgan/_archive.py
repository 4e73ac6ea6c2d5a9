"""ZIP bytes <-> entries, in the strict profile of FORMAT.md; knows no JSON and no tensors.

The structure is canonical: names, sizes and CRCs determine every other byte. So there is one
function that makes those bytes (`layout`), the writer writes them and the reader compares.
Section numbers are those of PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec
from isal.isal_zlib import crc32, crc32_combine

from .errors import FormatError

__all__ = ["Entry", "Layout", "Read", "Source", "crc32", "crc32_combine", "layout", "read_layout"]

Read = Callable[[int, int], bytes]  # (offset, length) -> at most that many bytes

LOCAL_MAGIC = b"PK\3\4"
ALIGNMENT = 4096
ALIGNED_SUFFIX = ".safetensors"

LIMIT = 0xFFFFFFFE  # the largest value written in clear: 0xFFFFFFFF means "see ZIP64"
_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_CENTRAL = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_CENTRAL_VALUES = struct.Struct("<16xL4xL2H14x")  # of those: CRC-32, size, and the two lengths
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR64 = struct.Struct("<4sLQL")  # 4.3.15
_LOCAL_SIZE, _CENTRAL_SIZE, _END_SIZE = _LOCAL.size, _CENTRAL.size, _END.size
_VERSION, _VERSION64, _MADE_BY = 20, 45, 0x0314
_FLAGS, _STORED, _TIME, _DATE = 0x0800, 0, 0, 0x0021
_MODE = 0x81A40000  # a regular file, rw-r--r--
_ALIGNMENT_ID = 0xD935
_ALIGNED = struct.Struct("<3H")
_ALIGNMENT_RECORD = _ALIGNED.size  # id, size, the alignment itself; zero bytes follow

FIRST_NAME = "manifest.json"
FIRST_HEADER = _LOCAL.size + len(FIRST_NAME)
_FIRST_PREFIX = struct.pack("<4s5H", LOCAL_MAGIC, _VERSION, _FLAGS, _STORED, _TIME, _DATE)
_FIRST_SUFFIX = struct.pack("<2H", len(FIRST_NAME), 0) + FIRST_NAME.encode()
_FIRST_VALUES = struct.Struct("<3L")
_TAIL = 1024  # far above any canonical directory, which has at most five records
_FAR_TAIL = 64 * 1024  # where an end record may hide behind a comment, for a better message


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One member of the archive: where its data begins, its size in bytes, its CRC-32."""

    name: str
    offset: int
    size: int
    crc: int


class Layout(msgspec.Struct, frozen=True):
    """The bytes around the data: a local header before each entry, and what follows the last."""

    entries: tuple[Entry, ...]
    headers: tuple[bytes, ...]
    tail: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.tail_offset + len(self.tail)

    @property
    def tail_offset(self) -> int:
        """Where the central directory begins."""
        last = self.entries[-1]
        return last.offset + last.size


class Source(Protocol):
    """Bytes at rest: a file or a buffer."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on; fewer only at the end."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from `offset` on; FormatError if the file ends before."""


def layout(members: Sequence[tuple[str, int, int]]) -> Layout:
    """The canonical structure for members given as (name, size, CRC-32)."""
    entries, headers, central = [], [], []
    position = 0
    for name, size, crc in members:
        header = _local_header(name, size, crc, position)
        entries.append(Entry(name, position + len(header), size, crc))
        headers.append(header)
        central.append(_central_record(name, size, crc, position))
        position += len(header) + size
    directory = b"".join(central)
    return Layout(tuple(entries), tuple(headers), directory + _end(len(central), len(directory), position))


def data_offset(name: str, size: int, position: int) -> int:
    """Where the data of an entry begins whose local header begins at `position`."""
    plain = position + _LOCAL_SIZE + len(name) + (20 if size > LIMIT else 0)
    if not name.endswith(ALIGNED_SUFFIX):
        return plain
    return -(-(plain + _ALIGNMENT_RECORD) // ALIGNMENT) * ALIGNMENT


def lead_size(name: str) -> int:
    """Bytes before the data of an entry that is no ZIP64 one, the zeros that align it apart."""
    return _LOCAL_SIZE + len(name) + (_ALIGNMENT_RECORD if name.endswith(ALIGNED_SUFFIX) else 0)


def tail_size(*names: str) -> int:
    """Bytes after the last data of an archive of these entries that is no ZIP64 one."""
    return _END_SIZE + sum(_CENTRAL_SIZE + len(name) for name in names)


def total_size(first_size: int, members: Sequence[tuple[str, int]]) -> int:
    """Bytes of an archive of `manifest.json` and members given as (name, size)."""
    position = FIRST_HEADER + first_size
    directory = _END_SIZE + _CENTRAL_SIZE + len(FIRST_NAME)
    for name, size in members:
        directory += _CENTRAL_SIZE + len(name)
        if position > LIMIT or size > LIMIT:
            directory += _wide_size(size, position)
        position = data_offset(name, size, position) + size
    if position > LIMIT:
        directory += _END64.size + _LOCATOR64.size
    return position + directory


def first_header(size: int, crc: int) -> bytes:
    """The local header of `manifest.json`, which begins every container."""
    return _FIRST_PREFIX + _FIRST_VALUES.pack(crc, size, size) + _FIRST_SUFFIX


def first_values(head: bytes) -> tuple[int, int]:
    """Size and CRC-32 of `manifest.json` from a file's first bytes; errors as `FormatError`."""
    if len(head) < FIRST_HEADER:
        raise FormatError("zip.truncated", f"the file ends after {len(head)} bytes")
    crc, size, _ = _FIRST_VALUES.unpack_from(head, len(_FIRST_PREFIX))
    if head[:FIRST_HEADER] != first_header(size, crc):
        raise FormatError(
            "zip.structure",
            "the local header is not the one its name, size and CRC determine",
            where=FIRST_NAME,
        )
    return size, crc


def read_layout(source: Source) -> Layout:
    """Read the structure of a container and compare every byte of it with the canonical one.

    Raises FormatError `zip.truncated` or `zip.structure`.
    """
    tail = _read_tail(source)
    found = layout([(name, size, crc) for name, size, crc in _members(source, tail)])
    if found.size != source.size:
        raise FormatError(
            "zip.structure",
            f"the entries need a file of {found.size} bytes, this one has {source.size}",
        )
    if tail[-len(found.tail) :] != found.tail:
        raise FormatError("zip.structure", "the central directory is not canonical")
    for entry, header in zip(found.entries, found.headers, strict=True):
        if source.read(entry.offset - len(header), len(header)) != header:
            raise FormatError(
                "zip.structure",
                "the local header differs from what the central directory determines",
                where=entry.name,
            )
    return found


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading, once and without waiting; return the descriptor.

    Raises FormatError `file.type` for a pipe, device or folder, `file.unreadable` for what the
    system refuses; a path that is not there stays FileNotFoundError.
    """
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except IsADirectoryError:
        raise FormatError("file.type", "this is a folder, not a file").at(path) from None
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error).at(path) from None
    return fd


def file_status(fd: int) -> os.stat_result:
    """The status of an open regular file; FormatError `file.type` for anything else."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError("file.type", f"this is {_kind(status.st_mode)}, not a regular file")
    return status


_OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
)


def _cannot_open(path: str | os.PathLike[str], error: OSError | ValueError) -> FormatError:
    if os.path.isdir(path):  # Windows says "permission denied" for a folder
        return FormatError("file.type", "this is a folder, not a file")
    if isinstance(error, OSError) and error.errno == errno.ENXIO:
        return FormatError("file.type", "this is a socket, not a regular file")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return FormatError("file.unreadable", f"cannot be opened: {reason}")


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def _local_header(name: str, size: int, crc: int, position: int) -> bytes:
    raw = name.encode()
    big = size > LIMIT
    extra = struct.pack("<2H2Q", 1, 16, size, size) if big else b""  # 4.5.3: both, in a local header
    padding = 0
    if name.endswith(ALIGNED_SUFFIX):
        padding = -(position + _LOCAL_SIZE + len(raw) + len(extra) + _ALIGNMENT_RECORD) % ALIGNMENT
        extra += _ALIGNED.pack(_ALIGNMENT_ID, 2 + padding, ALIGNMENT)
    shown = 0xFFFFFFFF if big else size
    header = _LOCAL.pack(
        LOCAL_MAGIC, _VERSION64 if big else _VERSION, _FLAGS, _STORED, _TIME, _DATE,
        crc, shown, shown, len(raw), len(extra) + padding,
    )  # fmt: skip
    return b"".join((header, raw, extra, bytes(padding)))


def _central_record(name: str, size: int, crc: int, position: int) -> bytes:
    raw = name.encode()
    wide = [value for value in (size, size, position) if value > LIMIT] if position + size > LIMIT else ()
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    shown, offset = min(size, 0xFFFFFFFF), min(position, 0xFFFFFFFF)
    return (
        _CENTRAL.pack(
            b"PK\1\2", _MADE_BY, _VERSION64 if wide else _VERSION, _FLAGS, _STORED, _TIME, _DATE,
            crc, shown, shown, len(raw), len(extra), 0, 0, 0, _MODE, offset,
        )
        + raw
        + extra
    )  # fmt: skip


def _end(count: int, size: int, offset: int) -> bytes:
    end = _END.pack(b"PK\5\6", 0, 0, count, count, size, min(offset, 0xFFFFFFFF), 0)
    if offset <= LIMIT:
        return end
    end64 = _END64.pack(b"PK\6\6", 44, _MADE_BY, _VERSION64, 0, 0, count, count, size, offset)
    return end64 + _LOCATOR64.pack(b"PK\6\7", 0, offset + size, 1) + end


def _wide_size(size: int, position: int) -> int:
    """Bytes of the ZIP64 extra of a central record."""
    count = 2 * (size > LIMIT) + (position > LIMIT)
    return 4 + 8 * count if count else 0


def _read_tail(source: Source) -> bytes:
    """The last bytes of the file, in which the whole directory lies if it is canonical."""
    tail = source.read(max(0, source.size - _TAIL), min(source.size, _TAIL))
    if len(tail) >= _END.size and tail[-_END.size :].startswith(b"PK\5\6"):
        return tail
    far = source.read(max(0, source.size - _FAR_TAIL), min(source.size, _FAR_TAIL))
    at = far.rfind(b"PK\5\6")
    if at < 0:
        raise FormatError("zip.truncated", "the end record is missing: the file was cut short")
    if len(far) - at < _END.size:
        raise FormatError("zip.truncated", "the end record is cut off")
    raise FormatError("zip.structure", "the end record is followed by other bytes")


def _members(source: Source, tail: bytes) -> Iterator[tuple[str, int, int]]:
    """(name, size, CRC-32) of each central record; `read_layout` compares all the rest."""
    start = position = _directory_start(source, tail)
    while tail.startswith(b"PK\1\2", position) and len(tail) - position >= _CENTRAL_SIZE:
        crc, size, name_size, extra_size = _CENTRAL_VALUES.unpack_from(tail, position)
        name_at = position + _CENTRAL_SIZE
        position = name_at + name_size + extra_size
        if size == 0xFFFFFFFF and len(extra := tail[name_at + name_size : position]) >= 12:
            size = struct.unpack_from("<Q", extra, 4)[0]
        if size > source.size:
            raise FormatError("zip.structure", "an entry is larger than the file")
        yield _decode_name(tail[name_at : name_at + name_size]), size, crc
    if position == start:
        raise FormatError("zip.structure", "the central directory is not where the end record says")


def _directory_start(source: Source, tail: bytes) -> int:
    """Index in `tail` at which the end records say that the central directory begins."""
    offset = _END.unpack_from(tail, len(tail) - _END.size)[6]
    locator = len(tail) - _END.size - _LOCATOR64.size
    if offset == 0xFFFFFFFF and locator >= _END64.size:
        offset = _END64.unpack_from(tail, locator - _END64.size)[9]
    start = int(offset) - (source.size - len(tail))
    if not 0 <= start < len(tail):
        raise FormatError("zip.structure", "the end record points outside the file")
    return start


def _decode_name(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise FormatError("zip.structure", "an entry's name is not UTF-8") from None
