"""Header bytes of a safetensors member <-> TensorSpec; knows no zip and reads no weights.

The canonical form is in FORMAT.md. A reader decodes, checks that the extents tile the data in
the one right order, encodes again and compares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated

import blake3
import msgspec

from ._text import has_control
from .errors import FormatError

MAX_HEADER = 8 * 1024 * 1024
ITEM_SIZE = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

_PAGE = 4096
_LINE = 64  # bytes: what vector loads and torch's own allocator align to
_METADATA = b'{"__metadata__":'
_USUAL_RANK = 8
_MOST_BYTES = 2**63 - 1
_NO_ALIASES = b'{"__metadata__":{"format":"pt","blake3":"'
_ALIAS = "alias:"
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class TensorSpec(msgspec.Struct, frozen=True, gc=False):
    """A stored tensor as its header describes it.

    `begin` and `end` are byte offsets in the component's data, `blake3` the hex digest of those
    bytes. An alias has the spec of the tensor that is stored for it, so its `name` differs from
    the alias.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    blake3: str

    @property
    def nbytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return self.end - self.begin


class Record(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A stored tensor as the JSON has it; its name is the key."""

    dtype: str
    shape: tuple[_Count, ...]
    data_offsets: tuple[_Count, _Count]


class Header(msgspec.Struct, frozen=True, dict=True):
    """A decoded header: records in data order, and which stored name each alias stands for.

    `digests` are those of the records, joined; `parameters` counts the elements of all stored
    tensors, buffers included.
    """

    records: dict[str, Record]
    digests: str
    aliases: dict[str, str]
    parameters: int

    @cached_property
    def tensors(self) -> dict[str, TensorSpec]:
        """The stored tensors in data order, each with its digest."""
        return {
            name: TensorSpec(name, r.dtype, r.shape, *r.data_offsets, self.digests[64 * at : 64 * at + 64])
            for at, (name, r) in enumerate(self.records.items())
        }

    @property
    def data_bytes(self) -> int:
        """Size of all tensors' data in bytes."""
        return next(reversed(self.records.values())).data_offsets[1] if self.records else 0


class _MetadataOnly(msgspec.Struct):
    metadata: msgspec.Raw = msgspec.field(name="__metadata__", default=msgspec.Raw(b""))


_decode_metadata_only = msgspec.json.Decoder(_MetadataOnly).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_decode_records = msgspec.json.Decoder(dict[str, Record]).decode
_encode = msgspec.json.Encoder().encode


def digest(data: bytes | memoryview) -> str:
    """BLAKE3 of bytes, in hex."""
    return blake3.blake3(data).hexdigest()


def is_hex(text: str) -> bool:
    """Whether text is whole bytes in lower-case hex."""
    try:
        return bytes.fromhex(text).hex() == text
    except ValueError:
        return False


def arrange(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> list[TensorSpec]:
    """Put (name, dtype, shape) in data order and give each its extent; digests are left blank."""
    sized = [(name, dtype, tuple(shape), _size(dtype, shape)) for name, dtype, shape in tensors]
    sized.sort(key=lambda t: _order(t[0], t[1], t[3]))
    specs, position = [], 0
    for name, dtype, shape, size in sized:
        check_name(name)
        specs.append(TensorSpec(name, dtype, shape, position, position + size, "0" * 64))
        position += size
    return specs


def encode_header(tensors: Iterable[TensorSpec], aliases: Mapping[str, str]) -> bytes:
    """The canonical header (8 + N bytes) of tensors in data order.

    `aliases` maps each other name of a tied tensor to the stored one.
    """
    tensors = list(tensors)
    metadata = {"format": "pt", "blake3": "".join(spec.blake3 for spec in tensors)}
    metadata |= {_ALIAS + name: aliases[name] for name in sorted(aliases)}
    records = {s.name: Record(s.dtype, s.shape, (s.begin, s.end)) for s in tensors}
    return _frame(_encode({"__metadata__": metadata, **records}))


def decode_header(raw: bytes) -> Header:
    """Decode a canonical header of 8 + N bytes.

    Raises FormatError with a `safetensors.…` code that says which rule is broken.
    """
    text = _unframe(raw)
    metadata, records = _decode(text)
    digests, aliases = _read_metadata(metadata, len(records))
    parameters = _check_records(records)
    _check_names(text, records, aliases)
    _check_aliases(records, aliases)
    if _frame(_encode({"__metadata__": metadata, **records})) != raw:
        raise FormatError("safetensors.canonical", "the header is not in its canonical spelling and padding")
    return Header(records, digests, aliases, parameters)


def elements(shape: Sequence[int], item_size: int, name: str) -> int:
    """The product of a shape.

    Raises FormatError `safetensors.extent` where the bytes, with a 1 in place of each 0, are more
    than 2^63-1: torch and other readers overflow, and the number may be made a million digits long.
    """
    size = item_size
    for length in filter(None, shape):
        size *= length
        if size > _MOST_BYTES:
            raise FormatError("safetensors.extent", "a shape of more than 2^63-1 bytes", where=name)
    return 0 if 0 in shape else size // item_size


def check_name(name: str) -> None:
    """Refuse a tensor name that a safetensors header cannot hold or a terminal should not see."""
    if name.isascii() and name.isprintable() and name != "__metadata__":
        return
    if name == "__metadata__":
        raise FormatError("safetensors.name", "a tensor cannot be named __metadata__", where=name)
    if has_control(name):
        raise FormatError("safetensors.name", "a tensor's name holds control characters", where=name)
    if any("\ud800" <= c <= "\udfff" for c in name):
        raise FormatError("safetensors.name", "a tensor's name is not valid Unicode", where=name)


def _order(name: str, dtype: str, size: int) -> tuple[int, str]:
    return (0 if size % _LINE == 0 else 16 - ITEM_SIZE[dtype], name)  # code points sort as UTF-8


def _size(dtype: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * ITEM_SIZE[dtype]


def _frame(text: bytes) -> bytes:
    padded = -(-(8 + len(text)) // _PAGE) * _PAGE - 8
    if padded + 8 > MAX_HEADER:
        raise FormatError("safetensors.length", f"the header is larger than {MAX_HEADER} bytes")
    return padded.to_bytes(8, "little") + text.ljust(padded)


def _unframe(raw: bytes) -> bytes:
    if len(raw) > MAX_HEADER:
        raise FormatError("safetensors.length", f"the header is larger than {MAX_HEADER} bytes")
    length = int.from_bytes(raw[:8], "little")
    if length != len(raw) - 8 or len(raw) < _PAGE:
        raise FormatError(
            "safetensors.length", f"the header says {length} bytes, its place holds {len(raw) - 8}"
        )
    return raw[8:]


def _decode(text: bytes) -> tuple[dict[str, str], dict[str, Record]]:
    try:
        return _decode_plain(text) or _decode_any(text)
    except msgspec.ValidationError as error:
        raise FormatError("safetensors.json", str(error)) from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError("safetensors.json", f"the header is not JSON: {error}") from None


def _decode_plain(text: bytes) -> tuple[dict[str, str], dict[str, Record]] | None:
    """The usual header, without aliases, in one pass; None for any other."""
    end = text.find(b'"', len(_NO_ALIASES))
    if not text.startswith(_NO_ALIASES) or text[end : end + 2] != b'"}':
        return None
    try:
        records = _decode_records(b"{" + text[end + 2 :].lstrip(b","))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return {"format": "pt", "blake3": text[len(_NO_ALIASES) : end].decode()}, records


def _decode_any(text: bytes) -> tuple[dict[str, str], dict[str, Record]]:
    if not text.startswith(_METADATA):
        _decode_metadata_only(text)  # not even JSON says more than not canonical
        raise FormatError("safetensors.canonical", "__metadata__ does not come first")
    raw = bytes(_decode_metadata_only(text).metadata)
    metadata = _decode_metadata(raw)
    if not text.startswith(_METADATA + raw):
        raise FormatError("safetensors.canonical", "__metadata__ stands twice")
    rest = text[len(_METADATA) + len(raw) :].lstrip(b",")
    return metadata, _decode_records(b"{" + rest)


def _read_metadata(metadata: dict[str, str], count: int) -> tuple[str, dict[str, str]]:
    digests = metadata.get("blake3", "")
    if metadata.get("format") != "pt" or "blake3" not in metadata:
        raise FormatError("safetensors.metadata", 'needs "format": "pt" and "blake3"')
    if len(digests) != 64 * count or not is_hex(digests):
        raise FormatError("safetensors.metadata", f"blake3 is not {count} hex digests joined")
    aliases = {}
    for key, value in list(metadata.items())[2:]:
        if not key.startswith(_ALIAS):
            raise FormatError("safetensors.metadata", "an unknown key", where=key)
        aliases[key[len(_ALIAS) :]] = value
    if list(aliases) != sorted(aliases) or list(metadata)[:2] != ["format", "blake3"]:
        raise FormatError("safetensors.canonical", "the keys of __metadata__ are out of order")
    return digests, aliases


def _check_records(records: Mapping[str, Record]) -> int:
    """Check that the tensors stand in the one right order and tile the data; count their elements."""
    position = parameters = 0
    last_rank, last_name = -1, ""
    for name, record in records.items():
        shape, (begin, end) = record.shape, record.data_offsets
        item = ITEM_SIZE.get(record.dtype)
        if item is None:
            raise FormatError("safetensors.dtype", f"unknown dtype {record.dtype!r}", where=name)
        count = math.prod(shape) if len(shape) <= _USUAL_RANK else 0
        if not count:
            count = elements(shape, item, name)
        size = count * item
        if begin != position or end - begin != size:
            raise _extent_error(name, begin, end, position, size)
        rank = 16 - item if size % _LINE else 0  # `_order`, without a tuple for each tensor
        if rank < last_rank or (rank == last_rank and name <= last_name):
            raise FormatError("safetensors.canonical", "the tensors are out of order", where=name)
        last_rank, last_name, position = rank, name, end
        parameters += count
    return parameters


def _extent_error(name: str, begin: int, end: int, position: int, size: int) -> FormatError:
    return FormatError(
        "safetensors.extent",
        f"lies at {begin} to {end}; its shape and place determine {position} to {position + size}",
        where=name,
    )


def _check_names(text: bytes, tensors: Iterable[str], aliases: Mapping[str, str]) -> None:
    if text.isascii() and b"\\" not in text and b"\x7f" not in text and "__metadata__" not in aliases:
        return
    for name in (*tensors, *aliases):
        check_name(name)


def _check_aliases(tensors: Mapping[str, object], aliases: Mapping[str, str]) -> None:
    for name, stored in aliases.items():
        if name in tensors:
            problem = "is an alias and a stored tensor at once"
        elif stored not in tensors:
            problem = "is an alias of a tensor that is not stored"
        elif stored > name:
            problem = "is stored under another name than the least"
        else:
            continue
        raise FormatError("safetensors.alias", problem, where=name)
