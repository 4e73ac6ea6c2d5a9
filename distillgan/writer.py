"""Write a container: data first, in one pass that hashes beside writing, then what describes it.

All sizes are known before a byte is written, because digests in hex and CRCs have fixed lengths.
So nothing is read twice and nothing is held but the tensor at hand.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from . import _archive, _atomic, _safetensors
from ._safetensors import TensorSpec
from .container import Container, FileSource
from .manifest import MODEL_FILE_EXTENSION, Manifest, encode_manifest

_BATCH = 4 * 1024 * 1024  # bytes hashed as one job: a job costs more than a small tensor's hash
_FORBIDDEN_STEMS = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])")  # Windows, in any folder


class Tensor(Protocol):
    """A tensor to be saved: its name, safetensors dtype and shape, and its bytes when asked for."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def data(self) -> memoryview:
        """The tensor's bytes, little-endian and row-major; asked for once, then let go."""

    def examine(self, data: memoryview) -> None:
        """Look at the bytes once more while they are in the processor's cache."""


_Batch = list[tuple[Tensor, memoryview]]


class Content(Protocol):
    """What goes into one entry."""

    @property
    def size(self) -> int:
        """Bytes of the entry."""

    def write(self, file: BinaryIO, progress: Progress) -> int:
        """Write `size` bytes from the file's position on; return their CRC-32."""


Progress = Callable[[int], object]


class TensorContent:
    """A safetensors member made of tensors in memory. `aliases` maps a name to the stored one."""

    def __init__(self, tensors: Sequence[Tensor], aliases: Mapping[str, str]):
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self._aliases = aliases
        self._specs = _safetensors.arrange((t.name, t.dtype, t.shape) for t in tensors)
        self._header = _safetensors.encode_header(self._specs, aliases)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """The tensors in data order; their digests are right once they are written."""
        return {spec.name: spec for spec in self._specs}

    @property
    def data_bytes(self) -> int:
        """Size of the tensors' data in bytes."""
        return self._specs[-1].end if self._specs else 0

    @property
    def size(self) -> int:
        """Size of the member in bytes."""
        return len(self._header) + self.data_bytes

    def describe(self) -> dict[str, Any]:
        """The member's counts, sizes and header digest, as the manifest holds them."""
        return {
            "tensors": len(self._specs),
            "parameters": sum(math.prod(spec.shape) for spec in self._specs),
            "data_bytes": self.data_bytes,
            "header_bytes": len(self._header),
            "header_digest": "blake3:" + _safetensors.digest(self._header),
        }

    def write(self, file: BinaryIO, progress: Progress) -> int:
        """Write data, then the header that holds its digests; return the member's CRC-32."""
        start = file.tell()
        file.seek(start + len(self._header))
        digests, data_crc = self._write_data(file, progress)
        self._specs = [
            msgspec.structs.replace(spec, blake3=digest)
            for spec, digest in zip(self._specs, digests, strict=True)
        ]
        self._header = _safetensors.encode_header(self._specs, self._aliases)
        file.seek(start)
        file.write(self._header)
        file.seek(start + self.size)
        return _archive.crc32_combine(_archive.crc32(self._header), data_crc, self.data_bytes)

    def _write_data(self, file: BinaryIO, progress: Progress) -> tuple[list[str], int]:
        hasher, job = _Hasher(), None
        with ThreadPoolExecutor(1) as pool:
            for batch in self._batches():
                earlier, job = job, pool.submit(hasher.add, batch)
                _atomic.write_all(file, [data for _, data in batch])
                length = sum(data.nbytes for _, data in batch)
                del batch
                for due in (earlier, job if length > _BATCH else None):  # never hold two large copies
                    if due is not None:
                        due.result()
                progress(length)
            if job is not None:
                job.result()
        return hasher.digests, hasher.crc

    def _batches(self) -> Iterator[_Batch]:
        batch: _Batch = []
        pending = 0
        for spec in self._specs:
            if batch and pending + spec.nbytes > _BATCH:
                yield batch
                batch, pending = [], 0
            tensor = self.tensors[spec.name]
            batch.append((tensor, tensor.data()))
            pending += spec.nbytes
        yield batch


class CopiedContent:
    """An entry of another container, copied as it is."""

    def __init__(self, container: Container, name: str):
        entry = container.entry(name)
        assert entry is not None
        self._source = container.source
        self._entry = entry
        self.size = entry.size

    def write(self, file: BinaryIO, progress: Progress) -> int:
        """Copy the bytes, in the kernel where it can; return the CRC-32 that they had."""
        if isinstance(self._source, FileSource):
            _atomic.copy_range(self._source.fd, self._entry.offset, self.size, file)
        else:
            file.write(self._source.data[self._entry.offset :][: self.size])
        progress(self.size)
        return self._entry.crc


class BytesContent:
    """An entry given as bytes."""

    def __init__(self, data: bytes):
        self._data = data
        self.size = len(data)

    def write(self, file: BinaryIO, progress: Progress) -> int:
        """Write the bytes; return their CRC-32."""
        file.write(self._data)
        progress(self.size)
        return _archive.crc32(self._data)


def write_container(
    file: BinaryIO,
    describe: Callable[[], Manifest],
    contents: Mapping[str, Content],
    progress: Progress = lambda _: None,
) -> None:
    """Write a whole container from the position 0 of an empty file on.

    `contents` maps entry names after `manifest.json`, in order, to what they hold; `describe`
    gives the manifest and is asked twice: for its length before, for its bytes after the data.
    """
    position = _archive.FIRST_HEADER + len(encode_manifest(describe()))
    crcs = []
    for name, content in contents.items():
        position = _archive.data_offset(name, content.size, position)
        file.seek(position)
        crcs.append(content.write(file, progress))
        position += content.size
    body = encode_manifest(describe())
    members = [(_archive.FIRST_NAME, len(body), _archive.crc32(body))]
    members += [(n, c.size, crc) for (n, c), crc in zip(contents.items(), crcs, strict=True)]
    layout = _archive.layout(members)
    for entry, header in zip(layout.entries, layout.headers, strict=True):
        file.seek(entry.offset - len(header))
        file.write(header)
    file.seek(layout.entries[0].offset)
    file.write(body)
    file.seek(layout.tail_offset)
    file.write(layout.tail)


def create(
    target: Path,
    describe: Callable[[], Manifest],
    contents: Mapping[str, Content],
    *,
    force: bool = False,
    progress: Progress = lambda _: None,
) -> Path:
    """Write a new file at `target`; FileExistsError if something is there, unless `force`."""
    with _atomic.draft(target.parent) as draft:
        write_container(draft.file, describe, contents, progress)
        if force:
            draft.replace(target)
            return target
        return draft.claim([target])


def create_named(
    folder: Path,
    name: str,
    describe: Callable[[], Manifest],
    contents: Mapping[str, Content],
    *,
    progress: Progress = lambda _: None,
) -> Path:
    """Write a new file in `folder` under the first free file name that a model's name gives."""
    folder.mkdir(parents=True, exist_ok=True)
    with _atomic.draft(folder) as draft:
        write_container(draft.file, describe, contents, progress)
        return draft.claim(_candidates(folder, name))


def file_stem(name: str) -> str:
    """A file name for a model's name that every system accepts, without extension.

    NFC, lower case; letters, marks and digits of any script, `-` and `_` stay, other runs become
    `_`; at most 100 characters and 200 bytes; `untitled` if nothing is left or Windows forbids it.
    """
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c == "-" else "_" for c in lowered)
    stem = re.sub("_+", "_", kept).strip("_-")[:100]
    stem = stem.encode()[:200].decode(errors="ignore").strip("_-")
    return "untitled" if not stem or _FORBIDDEN_STEMS.fullmatch(stem) else stem


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    stem, number = file_stem(name), 0
    while True:
        suffix = f"_{number}" if number else ""
        yield folder / f"{stem}{suffix}{MODEL_FILE_EXTENSION}"
        number += 1


class _Hasher:
    """Digest of each tensor and CRC-32 of all, for a thread of its own."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.crc = 0

    def add(self, batch: _Batch) -> None:
        for tensor, data in batch:
            self.digests.append(_safetensors.digest(data))
            self.crc = _archive.crc32(data, self.crc)
            tensor.examine(data)
