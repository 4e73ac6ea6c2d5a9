"""Mutators that keep checksums, lengths and digests right, so that inputs get behind them."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Callable
from typing import Any

from blake3 import blake3

from distillgan import _archive, _safetensors
from distillgan.container import BufferSource
from distillgan.errors import DistillganError

Mutate = Callable[[bytes, int], bytes]
JSON = Any
_NUMBERS = (
    0,
    1,
    -1,
    63,
    64,
    65,
    2**31,
    2**32 - 1,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
    10**300,
)
_VALUES = (
    *_NUMBERS,
    None,
    True,
    False,
    0.5,
    -0.0,
    1e308,
    "",
    "a",
    "é\u202e",
    "\x7f",
    "\x1b[31m",
    [],
    {},
    [[]],
    "F32",
)


def whole(data: bytes, max_size: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change a member of a file and make everything that follows from it right again, mostly."""
    parts = split(data)
    if not parts or chance.random() < 0.1:
        return mutate(data, max_size)
    name = chance.choice(list(parts))
    parts[name] = _member(name, parts[name], chance, mutate)
    if chance.random() < 0.05:
        _rearrange(parts, chance)
    if chance.random() < 0.9:
        _agree(parts)
    made = join(parts)
    return made if len(made) <= max_size else mutate(data, max_size)


def layout(data: bytes, max_size: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change names, sizes and order of a file's members and lay them out again; or a byte or two."""
    parts = split(data)
    if not parts or chance.random() < 0.4:
        return mutate(data, max_size)
    for name in list(parts):
        if chance.random() < 0.3:
            parts[name] = mutate(parts[name][:300], 400)
        if chance.random() < 0.2:
            parts[mutate(name.encode(), 40).decode(errors="ignore")] = parts.pop(name)
    made = join(parts)
    if chance.random() < 0.3:
        made = mutate(made, max_size)
    return made if len(made) <= max_size else mutate(data, max_size)


def header(data: bytes, max_size: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change a header's JSON as JSON, with extents and digests that fit, mostly."""
    if data[:1] == b"R" or chance.random() < 0.4:
        return mutate(data, max_size)
    document = edited(data, chance)
    if document is None:
        return mutate(data, max_size)
    if chance.random() < 0.7:
        document = fitted(document)
    return dumped(document)[:max_size]


def document(data: bytes, max_size: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change JSON as JSON, or as bytes."""
    found = edited(data, chance) if chance.random() < 0.5 else None
    return mutate(data, max_size) if found is None else dumped(found)[:max_size]


MUTATORS: dict[str, Any] = {
    "whole": whole, "layout": layout, "header": header, "plain": document, "manifest": document,
    "index": document,
}  # fmt: skip


def split(data: bytes) -> dict[str, bytes]:
    """The members that the central directory lists, as far as it can be read."""
    source = BufferSource(memoryview(data))
    try:
        tail = _archive._read_tail(source)
        members = list(_archive._members(source, tail))
        entries = _archive.layout(members).entries
    except (DistillganError, ValueError, ArithmeticError):
        return {}
    return {entry.name: data[entry.offset : entry.offset + entry.size] for entry in entries}


def join(parts: dict[str, bytes]) -> bytes:
    """A canonical archive of members in the order given."""
    found = _archive.layout([(name, len(data), zlib.crc32(data)) for name, data in parts.items()])
    pieces = []
    for data, head in zip(parts.values(), found.headers, strict=True):
        pieces += [head, data]
    return b"".join([*pieces, found.tail])


def edited(data: bytes, chance: random.Random) -> JSON | None:
    """The document in some bytes with a value or two changed; None if there is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        value = _edit(value, chance, 6)
    return value


def dumped(value: JSON) -> bytes:
    """Compact JSON without escapes, as the format spells it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def fitted(value: JSON) -> JSON:
    """A header with extents that tile its shapes in the order given, and as many digests."""
    if not isinstance(value, dict):
        return value
    metadata = value.get("__metadata__")
    records = {name: record for name, record in value.items() if name != "__metadata__"}
    position = 0
    for record in records.values():
        try:
            size = _elements(record) * _safetensors.ITEM_SIZE[record["dtype"]]
            record["data_offsets"] = [position, position + size]
            position += size
        except (KeyError, TypeError):
            continue
    if isinstance(metadata, dict):
        metadata["blake3"] = "0" * 64 * len(records)
    return value


def _edit(value: JSON, chance: random.Random, depth: int) -> JSON:
    if depth == 0 or not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return _changed(value, chance)
    if isinstance(value, list):
        return _edit_list(value, chance, depth)
    pairs = list(value.items())
    at = chance.randrange(len(pairs))
    key, item = pairs[at]
    action = chance.random()
    if action < 0.65:
        pairs[at] = (key, _edit(item, chance, depth - 1))
    elif action < 0.75:
        del pairs[at]
    elif action < 0.85:
        pairs[at] = (str(chance.choice(_VALUES)), item)
    elif action < 0.93:
        pairs.insert(chance.randrange(len(pairs) + 1), (str(chance.choice(_VALUES)), chance.choice(_VALUES)))
    else:
        pairs.append(pairs.pop(at))
    return dict(pairs)


def _edit_list(value: list[JSON], chance: random.Random, depth: int) -> list[JSON]:
    made = list(value)
    at = chance.randrange(len(made))
    action = chance.random()
    if action < 0.6:
        made[at] = _edit(made[at], chance, depth - 1)
    elif action < 0.75:
        del made[at]
    elif action < 0.9:
        made.insert(at, chance.choice(_VALUES))
    else:
        made = made[:at] + made[at:] * 2
    return made


def _changed(value: JSON, chance: random.Random) -> JSON:
    if isinstance(value, str) and value and chance.random() < 0.6:
        at = chance.randrange(len(value))
        return value[:at] + chance.choice('a0:é\u200b\n\\"') + value[at + chance.randrange(2) :]
    if type(value) is int and chance.random() < 0.6:
        return value + chance.choice((-64, -4, -1, 1, 4, 64))
    return chance.choice(_VALUES)


def _member(name: str, data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    if name == "manifest.json":
        return document(data, 4096, chance, mutate)
    if name.endswith(_archive.ALIGNED_SUFFIX) and chance.random() < 0.7:
        return _weights(data, chance, mutate)
    return mutate(data, max(64, len(data) + 32))


def _weights(data: bytes, chance: random.Random, mutate: Mutate) -> bytes:
    """Change the header of a safetensors member, and give it the data that it asks for."""
    length = int.from_bytes(data[:8], "little")
    text = header(data[8 : 8 + length].rstrip(b" "), 8192, chance, mutate)
    body = data[8 + length :]
    try:
        records = [r for n, r in json.loads(text).items() if n != "__metadata__"]
        size = max([r["data_offsets"][1] for r in records], default=0)
        if 0 <= size <= 1 << 14:
            body = body[:size].ljust(size, b"\x01")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        pass
    return _safetensors._frame(_with_digests(text, body)) + body


def _with_digests(text: bytes, body: bytes) -> bytes:
    """A header's JSON with the digests of the data that it describes."""
    try:
        found = json.loads(text)
        records = [r for n, r in found.items() if n != "__metadata__"]
        spans = [body[slice(*r["data_offsets"])] for r in records]
        found["__metadata__"]["blake3"] = "".join(blake3(span).hexdigest() for span in spans)
        return dumped(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text


def _rearrange(parts: dict[str, bytes], chance: random.Random) -> None:
    """Drop a member, add one, or move one to the end."""
    name = chance.choice(list(parts))
    action = chance.randrange(3)
    if action == 0 and len(parts) > 1:
        del parts[name]
    elif action == 1:
        other = chance.choice(("vocoder.safetensors", "preview.flac", "manifest.json.sig", "x"))
        parts[other] = parts.get("vae.safetensors", b"")
    else:
        parts[name] = parts.pop(name)


def _agree(parts: dict[str, bytes]) -> None:
    """Let the manifest say of the other members what is true."""
    try:
        found = json.loads(parts["manifest.json"])
        for component in ("vae", "vocoder"):
            member = parts.get(f"{component}.safetensors")
            if member is not None and component in found:
                found[component] |= described(member)
        if "preview" in found and "preview.flac" in parts:
            sound = parts["preview.flac"]
            found["preview"] |= {"digest": f"blake3:{blake3(sound).hexdigest()}", "bytes": len(sound)}
        parts["manifest.json"] = dumped(found)
    except (KeyError, TypeError, ValueError, RecursionError):
        return


def described(member: bytes) -> dict[str, Any]:
    """What a manifest says of a safetensors member."""
    size = min(8 + int.from_bytes(member[:8], "little"), len(member))
    try:
        records = [r for n, r in json.loads(member[8:size]).items() if n != "__metadata__"]
        elements = sum(_elements(record) for record in records)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        "tensors": len(records), "parameters": elements, "data_bytes": len(member) - size,
        "header_bytes": size, "header_digest": f"blake3:{blake3(member[:size]).hexdigest()}",
    }  # fmt: skip


def _elements(record: JSON) -> int:
    shape = record.get("shape") if isinstance(record, dict) else None
    sizes = shape if isinstance(shape, list) else [0]
    return math.prod(size if type(size) is int else 0 for size in sizes[:100])
