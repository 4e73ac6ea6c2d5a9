"""Say what a file is that is not a container. Pickles are read as opcodes and never executed."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from .errors import FormatError, LegacyFormatError

Read = Callable[[int, int], bytes]

_LEGACY_MARKER = "distill_model"
_TORCH_MARKER = "distillgan_model"
_MAX_PICKLE = 4 * 1024 * 1024  # the structure of a checkpoint is some 50 kB; weights lie elsewhere
_MAX_OPCODES = 50_000
_MAX_DIRECTORY = 8 * 1024 * 1024  # some 100,000 members
_FAR_TAIL = 64 * 1024
_MAX_PACKED = 64 * 1024 * 1024  # the same where the user means the file to be packed
_MAX_PACKED_OPCODES = 5_000_000
_MAX_PICKLES = 5  # torch's old format: magic, protocol, system, the object, storage keys
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TEXT = frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
_MARK = object()
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError,
    OverflowError,
)  # fmt: skip
_KINDS = (
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"GGUF", "a GGUF file"),
    (b"fLaC", "a FLAC sound"),
    (b"RIFF", "a RIFF (WAV) sound"),
    (b"\x89HDF", "an HDF5 file"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
)


def explain(head: bytes, size: int, read: Read) -> FormatError:
    """What a file is that does not begin with a ZIP local header."""
    if size == 0:
        return FormatError("zip.truncated", "the file is empty")
    if size < 4 and b"PK\3\4".startswith(head):
        return FormatError("zip.truncated", f"the file ends after {size} bytes")
    if head[:1] == b"\x80":
        return _explain_pickle(read(0, _MAX_PICKLE))
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return _not_ours(kind)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return _not_ours("a plain safetensors file: make a container of it with `distillgan pack`")
    if head.lstrip()[:1] == b"<":
        return _not_ours("an HTML or XML page: the download was not the model")
    return _not_ours("something else")


def explain_zip(size: int, read: Read) -> FormatError:
    """What a ZIP is whose first entry is not `manifest.json`."""
    data = _torch_pickle(size, read)
    return _not_ours("another ZIP archive") if data is None else _explain_pickle(data)


def read_pickle(size: int, read: Read) -> bytes | None:
    """The pickled structure of a torch file, zip or not; None for a file that has none."""
    head = read(0, 4)
    if head == b"PK\3\4":
        return _torch_pickle(size, read, _MAX_PACKED)
    return read(0, _MAX_PICKLE) if head[:1] == b"\x80" else None


def refuse_saved_model(data: bytes) -> None:
    """Raise if pickled bytes are a saved model of the app, of either age, by its marker."""
    error = _explain_pickle(data)
    if error.code != "file.format":
        raise error


def pickle_globals(data: bytes) -> set[str]:
    """The qualified names of all classes and functions that a pickle (protocol 2) refers to."""
    return {str(argument).replace(" ", ".", 1) for name, argument in _opcodes(data) if name == "GLOBAL"}


def pickle_marker(data: bytes) -> str | None:
    """The value of the key `format` in the dict that a file's pickle makes, without making it."""
    file = io.BytesIO(data)
    for _ in range(_MAX_PICKLES):
        root = _outline(file)
        if isinstance(root, dict) and isinstance(root.get("format"), str):
            return str(root["format"])
    return None


def _outline(file: io.BytesIO) -> Any:
    """What one pickle makes, in outline: dicts with their text keys, text, and {} for all else."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name == "STOP" or count > _MAX_OPCODES:
                return stack[-1]
            _step(opcode, argument, stack, memo)
    except (ValueError, OverflowError, LookupError):
        pass  # not a pickle from here on: a damaged file, or torch's raw storages
    return None


def _step(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[Any], memo: dict[Any, Any]) -> None:
    name = opcode.name
    if name in _PUT:
        memo[argument if name != "MEMOIZE" else len(memo)] = stack[-1]
    elif name in _GET:
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("SETITEM", "SETITEMS"):
        items = _pop_to_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        if isinstance(stack[-1], dict):
            keys = zip(items[::2], items[1::2], strict=False)
            stack[-1].update({key: value for key, value in keys if isinstance(key, str)})
    else:
        _pop_all(opcode, stack)
        made = argument if isinstance(argument, str) and name in _TEXT else None
        stack.extend(made if made is not None else {} for _ in opcode.stack_after)


def _pop_all(opcode: pickletools.OpcodeInfo, stack: list[Any]) -> None:
    """Take what an opcode takes, by pickletools' own table."""
    if pickletools.markobject in opcode.stack_before:
        _pop_to_mark(stack)
        taken = opcode.stack_before.index(pickletools.markobject)
    else:
        taken = len(opcode.stack_before)
    for _ in range(taken):
        stack.pop()


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _torch_pickle(size: int, read: Read, limit: int = _MAX_PICKLE) -> bytes | None:
    if _directory_size(size, read) > _MAX_DIRECTORY:
        return None
    try:
        with zipfile.ZipFile(_File(size, read)) as archive:
            for info in archive.infolist():
                name, stored = info.filename, info.compress_type == zipfile.ZIP_STORED
                if stored and (name == "data.pkl" or name.endswith("/data.pkl")):
                    with archive.open(info) as file:
                        return file.read(limit)
    except _ZIP_ERRORS:
        pass
    return None


def _directory_size(size: int, read: Read) -> int:
    """Bytes of a ZIP's central directory as its end records tell; zipfile would read it whole."""
    tail = read(max(0, size - _FAR_TAIL), min(size, _FAR_TAIL))
    for magic, at, form in ((b"PK\6\6", 40, "<Q"), (b"PK\5\6", 12, "<L")):  # the first is ZIP64's
        start = tail.rfind(magic)
        if start >= 0 and start + at + 8 <= len(tail):
            return int(struct.unpack_from(form, tail, start + at)[0])
    return 0


def _opcodes(data: bytes) -> Iterator[tuple[str, object]]:
    file, count = io.BytesIO(data), 0
    try:
        for _ in range(_MAX_PICKLES):
            for opcode, argument, _ in pickletools.genops(file):
                yield opcode.name, argument
                count += 1
                if count > _MAX_PACKED_OPCODES:
                    return
    except (ValueError, OverflowError, IndexError):
        return  # not a pickle from here on: a truncated file, or torch's raw storages


def _explain_pickle(data: bytes) -> FormatError:
    marker = pickle_marker(data) if b"distill" in data else None
    if marker == _LEGACY_MARKER:
        return LegacyFormatError()
    if marker == _TORCH_MARKER:
        return FormatError(
            "legacy.torch",
            "a model saved with torch.save before the container existed; "
            "pack its training checkpoint instead: distillgan pack CHECKPOINT",
        )
    return _not_ours("a pickle (a checkpoint?): make a container of it with `distillgan pack`")


def _not_ours(kind: str) -> FormatError:
    return FormatError("file.format", f"not a .distillgan file but {kind}")


class _File(io.RawIOBase):
    """A seekable file over a read function, for zipfile."""

    def __init__(self, size: int, read: Read):
        self._size, self._read, self._at = size, read, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("negative seek")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
