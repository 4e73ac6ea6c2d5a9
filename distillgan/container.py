"""Open and read a container: the manifest alone, or the whole structure and its headers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property, partial

from . import _archive, _safetensors, signature
from ._archive import Entry
from ._atomic import Identity, identity, read_at, read_at_into
from ._safetensors import Header, TensorSpec
from ._text import printable
from .errors import (
    DistillganError,
    FormatError,
    IntegrityError,
    LegacyFormatError,
    ModelNotFoundError,
)
from .manifest import (
    MAX_MANIFEST,
    MAX_PREVIEW,
    Manifest,
    decode_manifest,
)

PREVIEW_NAME = "preview.flac"
SIGNATURE_NAME = "manifest.json.sig"
COMPONENTS = ("vae", "vocoder")

_FIRST_READ = 8192
_HEAD = 32 * 1024  # holds the manifest and the first headers of most models
_MOST_READ = 2**30  # bytes that one call of every system reads
_PAGE = _archive.ALIGNMENT
_VAE_LEAD, _VOCODER_LEAD = (_archive.lead_size(f"{c}.safetensors") for c in ("vae", "vocoder"))
_PREVIEW_LEAD = _archive.lead_size(PREVIEW_NAME)
_PLAIN_TAIL = _archive.tail_size(_archive.FIRST_NAME, "vae.safetensors")
_VOCODER_TAIL = _archive.tail_size("vocoder.safetensors") - _archive.tail_size()
_PREVIEW_TAIL = _archive.tail_size(PREVIEW_NAME) - _archive.tail_size()
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LEGACY_SUFFIX = ".distill"


class FileSource:
    """An open regular file; its first bytes are read once, for all who ask for parts of them."""

    def __init__(self, fd: int):
        self.fd = -1  # not ours to close if it is no regular file
        self.size = _archive.file_status(fd).st_size
        self._head = read_at(fd, 0, _HEAD)
        self.fd = fd

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on; fewer only at the end."""
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        if offset >= self.size:
            return b""  # maybe beyond what a system call takes
        chunks = [read_at(self.fd, offset, min(length, _MOST_READ))]
        while len(chunks[-1]) == _MOST_READ:
            done = len(chunks) * _MOST_READ
            chunks.append(read_at(self.fd, offset + done, min(length - done, _MOST_READ)))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from `offset` on; FormatError `zip.truncated` if the file ends before."""
        done = 0
        while done < len(buffer):
            if offset + done >= self.size:
                raise FormatError("zip.truncated", "the file ends before what is asked for")
            count = read_at_into(self.fd, offset + done, buffer[done:])
            if not count:
                raise FormatError("zip.truncated", "the file became shorter while it was read")
            done += count

    def close(self) -> None:
        """Close the descriptor; again is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


class BufferSource:
    """A container in memory: what a transport file holds."""

    def __init__(self, data: memoryview):
        self.data = data
        self.size = len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on."""
        return bytes(self.data[offset : offset + length])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from `offset` on."""
        buffer[:] = self.data[offset : offset + len(buffer)]

    def close(self) -> None:
        """Nothing to do: the buffer goes with its last user."""


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Say it plainly where hundreds of thousands of names meet a process that is kept small."""
    try:
        yield
    except MemoryError:
        raise FormatError("safetensors.length", "the header needs more memory than there is") from None


def entry_name(component: str) -> str:
    """The archive entry that holds a component's tensors."""
    return component + _archive.ALIGNED_SUFFIX


def open_file(path: str | os.PathLike[str]) -> FileSource:
    """Open a regular file, whatever it holds; `*.distill` is never opened.

    Raises FormatError `file.…`, LegacyFormatError, ModelNotFoundError.
    """
    fd = _open(os.fspath(path))
    try:
        return FileSource(fd)
    except FormatError as error:
        os.close(fd)
        raise error.at(path) from None
    except BaseException:
        os.close(fd)
        raise


def is_container(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a container or its transport form does; nothing else is checked.

    Raises as `read_manifest` does for a path that cannot be opened.
    """
    source = open_file(path)
    head = source.read(0, _archive.FIRST_HEADER)
    source.close()
    return head[:4] == _ZSTD_MAGIC or head[30:] == _archive.FIRST_NAME.encode()


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read a container's manifest, and nothing else of it.

    Vouches for the manifest's bytes (CRC, canonical form, schema) and for the file's length.
    Raises FormatError, LegacyFormatError, UnsupportedVersionError, ModelNotFoundError.
    """
    return read_status(path)[0]


def read_status(path: str | os.PathLike[str], *, transport: bool = True) -> tuple[Manifest, os.stat_result]:
    """A container's manifest as `read_manifest` gives it, and the file's status from before it was read.

    `transport=False` refuses the transport form, as a library does.
    """
    name = os.fspath(path)
    fd = _open(name)
    try:
        status = _archive.file_status(fd)
        head = os.read(fd, _FIRST_READ)
        if not (transport and head.startswith(_ZSTD_MAGIC)):
            return _manifest_in(head, status.st_size, partial(read_at, fd)), status
    except FormatError as error:
        raise error.at(name) from None
    finally:
        os.close(fd)
    source = _open_source(name)
    try:
        return _manifest_of(source), status
    except FormatError as error:
        raise error.at(name) from None


class Container:
    """An open container whose whole structure has been checked; weights are not read.

    Also a context manager. Raises FormatError at any rule that does not hold.
    """

    def __init__(
        self, source: FileSource | BufferSource, path: str, manifest: Manifest, entries: tuple[Entry, ...]
    ):
        """Hold what `open` or `salvage` has read; `path` is for messages."""
        self.path = path
        self.source = source
        self.manifest = manifest
        self.entries = entries
        self._headers: dict[str, Header | FormatError] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Container:
        """Open a `.distillgan` file or its transport form (`.distillgan.zst`)."""
        source = _open_source(path)
        try:
            manifest = _manifest_of(source)
            return cls(source, os.fspath(path), manifest, _read_entries(source, manifest))
        except FormatError as error:
            source.close()
            raise error.at(path) from None

    @classmethod
    def salvage(cls, path: str | os.PathLike[str]) -> tuple[Container, list[FormatError]]:
        """Open a container whose manifest is whole, whatever else is damaged, and say what is.

        Where the structure is damaged, entries lie where the manifest's sizes put them and have
        the CRC -1: unknown.
        """
        source = _open_source(path)
        problems: list[FormatError] = []
        try:
            manifest, body_size = _decode_head(source.read(0, _FIRST_READ), source.size, source.read)
            entries = _expected_entries(manifest, body_size)
        except FormatError as error:
            source.close()
            raise error.at(path) from None
        try:
            _check_length(manifest, body_size, source.size)
            entries = _read_entries(source, manifest)
        except FormatError as error:
            problems.append(error.at(path))
        return cls(source, os.fspath(path), manifest, entries), problems

    @property
    def size(self) -> int:
        """Bytes of the whole container."""
        return self.source.size

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components that hold tensors."""
        return tuple(self.manifest.components)

    @cached_property
    def identity(self) -> Identity | None:
        """Which state of which file was opened; None for a transport file."""
        return identity(self.source.fd) if isinstance(self.source, FileSource) else None

    def entry(self, name: str) -> Entry | None:
        """The member of that name, or None."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def header(self, component: str) -> Header:
        """Read and check a component's safetensors header; weights are not read.

        Raises IntegrityError `digest.header`, FormatError `safetensors.…` or `manifest.counts`.
        """
        found = self._headers.get(component)
        if found is None:
            try:
                found = self._read_header(component)
            except FormatError as error:  # kept: a hostile header should not be read twice
                error.where = ": ".join(filter(None, (entry_name(component), error.where)))
                found = error.at(self.path)
            self._headers[component] = found
        if isinstance(found, FormatError):
            raise found from None
        return found

    def tensors(self, component: str) -> dict[str, TensorSpec]:
        """Name, dtype, shape, extent and digest of each tensor; an alias has its tensor's spec."""
        header = self.header(component)
        with _enough_memory():
            return header.tensors | {a: header.tensors[stored] for a, stored in header.aliases.items()}

    def data_offset(self, component: str) -> int:
        """Where in the file the data of a component's first tensor begins."""
        entry = self.entry(entry_name(component))
        if entry is None:
            raise DistillganError(f"{self.path} has no {component}; it has {', '.join(self.components)}.")
        return entry.offset + self.manifest.components[component].header_bytes

    def read_entry(self, name: str) -> bytes | None:
        """The bytes of a small member (manifest, preview, signature), CRC checked; None if absent.

        Raises IntegrityError `zip.crc`.
        """
        entry = self.entry(name)
        if entry is None:
            return None
        data = self.source.read(entry.offset, entry.size)
        if entry.crc not in (_archive.crc32(data), -1):
            raise IntegrityError("zip.crc", "the bytes do not fit their CRC-32", where=name).at(self.path)
        return data

    def use_buffer(self, data: memoryview) -> None:
        """Read from memory that holds the whole file from now on, and let go of the file."""
        self.source.close()
        self.source = BufferSource(data)

    def close(self) -> None:
        """Let go of the file; what was read stays valid."""
        self.source.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Container {printable(self.path)}: {printable(summary(self.manifest))}>"

    def _repr_html_(self) -> str:
        from html import escape  # 8 ms that only a notebook should cost

        rows = "".join(
            f"<tr><td>{escape(e.name)}</td><td style='text-align:right'>{e.size:,}</td></tr>"
            for e in self.entries
        )
        title = f"{escape(printable(self.path))}<br>{escape(printable(summary(self.manifest)))}"
        return f"<table><caption>{title}</caption><tr><th>entry</th><th>bytes</th></tr>{rows}</table>"

    def _read_header(self, component: str) -> Header:
        start = self.data_offset(component)
        declared = self.manifest.components[component]
        length = declared.header_bytes
        if length > _safetensors.MAX_HEADER:
            raise FormatError("safetensors.length", "the header is larger than 8 MiB")
        raw = self.source.read(start - length, length)
        if _safetensors.digest(raw) != declared.header_digest[7:]:
            raise IntegrityError(
                "digest.header", "is not the header that the manifest vouches for", component=component
            )
        with _enough_memory():
            header = _safetensors.decode_header(raw)
        counts = (len(header.records), header.parameters, header.data_bytes)
        if counts != (declared.tensors, declared.parameters, declared.data_bytes):
            raise FormatError("manifest.counts", "tensors, parameters or data_bytes are not the header's")
        return header


def summary(manifest: Manifest) -> str:
    """One line: the model's name, its size, its vocoder."""
    parts = [manifest.metadata.name, f"{manifest.vae.architecture}, {manifest.vae.parameters:,} parameters"]
    if manifest.vocoder is not None:
        parts.append(f"vocoder {manifest.vocoder.type}")
    return "; ".join(parts)


def _open_source(path: str | os.PathLike[str]) -> FileSource | BufferSource:
    source = open_file(path)
    if source.read(0, 4) != _ZSTD_MAGIC:
        return source
    try:
        from ._transport import decompress  # zstandard, only for transport files

        return BufferSource(decompress(source.read(0, source.size)))
    except FormatError as error:
        raise error.at(path) from None
    finally:
        source.close()


def _sizes(manifest: Manifest) -> list[tuple[str, int]]:
    """The members after the manifest, with the sizes it declares."""
    vae, vocoder, preview = manifest.vae, manifest.vocoder, manifest.preview
    members = [("vae.safetensors", vae.header_bytes + vae.data_bytes)]
    if vocoder is not None:
        members.append(("vocoder.safetensors", vocoder.header_bytes + vocoder.data_bytes))
    if preview is not None:
        members.append((PREVIEW_NAME, preview.bytes))
    return members


def _open(path: str) -> int:
    if path.endswith(_LEGACY_SUFFIX):
        raise LegacyFormatError(path=path)
    try:
        return _archive.open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(f"Model file not found: {path}") from None


def _manifest_of(source: FileSource | BufferSource) -> Manifest:
    return _manifest_in(source.read(0, _FIRST_READ), source.size, source.read)


def _manifest_in(head: bytes, size: int, read: _archive.Read) -> Manifest:
    """The manifest of a file of `size` bytes that begins with `head` and is long enough for it."""
    manifest, body_size = _decode_head(head, size, read)
    _check_length(manifest, body_size, size)
    return manifest


def _decode_head(head: bytes, size: int, read: _archive.Read) -> tuple[Manifest, int]:
    """The manifest in a container's first bytes, and its size in bytes."""
    try:
        body_size, crc = _archive.first_values(head)
    except FormatError as error:
        raise _explain(error, head, size, read) from None
    body = head[_archive.FIRST_HEADER : _archive.FIRST_HEADER + body_size]
    if len(body) < body_size:
        body = _read_long_manifest(body_size, size, read)
    if _archive.crc32(body) != crc:
        raise IntegrityError("zip.crc", "the bytes do not fit their CRC-32", where=_archive.FIRST_NAME)
    manifest = decode_manifest(body)
    if manifest.preview is not None and manifest.preview.bytes > MAX_PREVIEW:
        raise FormatError("preview.size", "larger than 4 MiB", where=PREVIEW_NAME)
    return manifest, body_size


def _read_long_manifest(body_size: int, size: int, read: _archive.Read) -> bytes:
    if body_size > MAX_MANIFEST:
        raise FormatError("manifest.size", f"{body_size} bytes; at most {MAX_MANIFEST} are allowed")
    body = read(_archive.FIRST_HEADER, body_size)
    if len(body) < body_size:
        raise FormatError("zip.truncated", f"the file ends inside its manifest, at {size} bytes")
    return body


def _check_length(manifest: Manifest, body_size: int, size: int) -> None:
    required = _required_size(manifest, body_size)
    if size < required:
        raise FormatError(
            "zip.truncated", f"has {size} bytes; its manifest requires {required}: get the file again"
        )


def _required_size(manifest: Manifest, body_size: int) -> int:
    """What `_archive.total_size` says, written out: this is asked for each file of a library."""
    vae, vocoder, preview = manifest.vae, manifest.vocoder, manifest.preview
    position, tail = _archive.FIRST_HEADER + body_size, _PLAIN_TAIL
    position = -(-(position + _VAE_LEAD) // _PAGE) * _PAGE + vae.header_bytes + vae.data_bytes
    if vocoder is not None:
        position = -(-(position + _VOCODER_LEAD) // _PAGE) * _PAGE + vocoder.header_bytes + vocoder.data_bytes
        tail += _VOCODER_TAIL
    if preview is not None:
        position += _PREVIEW_LEAD + preview.bytes
        tail += _PREVIEW_TAIL
    if position > _archive.LIMIT:
        return _archive.total_size(body_size, _sizes(manifest))
    return position + tail


def _explain(error: FormatError, head: bytes, size: int, read: _archive.Read) -> FormatError:
    """What a file is whose first local header is not ours: another format, or ours and damaged."""
    ours = head[30 : _archive.FIRST_HEADER] == _archive.FIRST_NAME.encode()
    if head.startswith(_archive.LOCAL_MAGIC) and (ours or size < _archive.FIRST_HEADER):
        return error
    from . import _foreign  # readers of other formats, loaded only on failure

    if head.startswith(_archive.LOCAL_MAGIC):
        return _foreign.explain_zip(size, read)
    return _foreign.explain(head, size, read)


def _expected_entries(manifest: Manifest, body_size: int) -> tuple[Entry, ...]:
    """Where the manifest's own sizes put the entries, for a file whose structure is damaged."""
    entries, position = [], 0
    for name, size in [(_archive.FIRST_NAME, body_size), *_sizes(manifest)]:
        offset = _archive.data_offset(name, size, position)
        entries.append(Entry(name, offset, size, -1))
        position = offset + size
    return tuple(entries)


def _read_entries(source: _archive.Source, manifest: Manifest) -> tuple[Entry, ...]:
    """The entries of a structure that is canonical and holds what the manifest declares."""
    entries = _archive.read_layout(source).entries
    expected = {_archive.FIRST_NAME: entries[0].size, **dict(_sizes(manifest))}
    names = [entry.name for entry in entries]
    if names not in ([*expected], [*expected, SIGNATURE_NAME]):
        raise FormatError(
            "zip.members", f"holds {', '.join(names)}; the manifest declares {', '.join(expected)}"
        )
    for entry in entries:
        if entry.name == SIGNATURE_NAME:
            _check_signature(source, entry)
        elif entry.size != expected[entry.name]:
            raise FormatError(
                "manifest.counts",
                f"the manifest says {expected[entry.name]} bytes, it has {entry.size}",
                where=entry.name,
            )
    return entries


def _check_signature(source: _archive.Source, entry: Entry) -> None:
    if entry.size > signature.MAX_ARMOR:
        raise FormatError("signature.armor", "larger than 16 KiB", where=SIGNATURE_NAME)
    signature.decode_armor(source.read(entry.offset, entry.size))
