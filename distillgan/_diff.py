"""Say in what two models differ, from manifests and headers: digests stand for weights.

A plain safetensors file may stand on either side; it has no digests, so the tensors in question
are read and hashed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import blake3
import msgspec
from msgspec import UNSET, UnsetType

from . import _safetensors
from ._safetensors import ITEM_SIZE, Header, Record, TensorSpec, elements
from .container import SIGNATURE_NAME, BufferSource, Container, FileSource, open_file
from .errors import DistillganError, FormatError
from .manifest import Manifest, check_open_objects, encode_manifest
from .signature import decode_armor

_CHUNK = 4 * 1024 * 1024
_MAX_PLAIN_HEADER = 100_000_000  # bytes: the limit of the safetensors library
_ALIAS = "alias:"
_SHOWN = 100  # characters of a key: a path is written once for each change below it
_OF_THE_WEIGHTS = ("tensors", "parameters", "data_bytes", "header_bytes", "header_digest")
_ARRAY_KEYS = {"dtype", "shape", "base64"}
_encode = msgspec.json.Encoder().encode


class Change(msgspec.Struct, frozen=True):
    """One value that differs; UNSET where it is absent. An array is given by type, shape and digest."""

    path: str
    before: Any = UNSET
    after: Any = UNSET


class Reshaped(msgspec.Struct, frozen=True):
    """A tensor of another shape or dtype."""

    name: str
    before: str
    after: str


class Changed(msgspec.Struct, frozen=True):
    """A tensor of other bytes.

    With values: the largest |b - a|, and the largest |b - a| / max(|a|, |b|), which is at most 2;
    None where that is no finite number or the dtype has no arithmetic.
    """

    name: str
    largest_absolute: float | UnsetType | None = UNSET
    largest_relative: float | UnsetType | None = UNSET


class ComponentDiff(msgspec.Struct, frozen=True):
    """What differs in the tensors of a component that both sides have."""

    added: list[str]
    removed: list[str]
    reshaped: list[Reshaped]
    changed: list[Changed]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.reshaped or self.changed)


class Diff(msgspec.Struct, frozen=True):
    """What differs from the first file to the second.

    `manifest` is empty where a side is a plain safetensors file; such a file is compared with the
    component that it shares most names with, and two of them as the component `tensors`.
    """

    manifest: list[Change]
    components: dict[str, ComponentDiff]
    only_before: list[str]
    only_after: list[str]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        parts_same = all(part.same for part in self.components.values())
        return parts_same and not (self.manifest or self.only_before or self.only_after)


class Part:
    """The tensors of one component on one side: their header, and where their bytes lie."""

    def __init__(
        self, source: FileSource | BufferSource, start: int, header: Callable[[], Header], digest: str = ""
    ):
        self._source = source
        self._start = start
        self._load = header
        self.header_digest = digest

    @cached_property
    def header(self) -> Header:
        """The decoded header, read when it is asked for."""
        return self._load()

    @cached_property
    def tensors(self) -> dict[str, TensorSpec]:
        """Every name, aliases included."""
        stored, aliases = self.header.tensors, self.header.aliases
        return stored | {alias: stored[name] for alias, name in aliases.items()}

    def read(self, spec: TensorSpec) -> bytes:
        """A tensor's bytes."""
        return self._source.read(self._start + spec.begin, spec.nbytes)

    def digest(self, spec: TensorSpec) -> str:
        """The BLAKE3 of a tensor: from the header, else of its bytes."""
        if spec.blake3:
            return spec.blake3
        hasher = blake3.blake3()
        for begin in range(spec.begin, spec.end, _CHUNK):
            hasher.update(self._source.read(self._start + begin, min(_CHUNK, spec.end - begin)))
        return hasher.hexdigest()


class Side:
    """One of the two files, open: a container, or a plain safetensors file without a manifest."""

    def __init__(self, parts: dict[str, Part], container: Container | None = None):
        self.parts = parts
        self.container = container


def diff(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Diff:
    """Compare two models, or plain safetensors files; weights are read only where digests are missing.

    Compares what the files say of themselves: damage is what `verify` finds. Raises FormatError,
    ModelNotFoundError.
    """
    with open_side(a) as before, open_side(b) as after:
        return compare(before, after)


@contextlib.contextmanager
def open_side(path: str | os.PathLike[str]) -> Iterator[Side]:
    """Open a file for comparison, whichever of the two kinds it is."""
    if _is_plain(path):
        source = open_file(path)
        try:
            yield Side({"tensors": _plain_part(source)})
        except FormatError as error:
            raise (error if error.path else error.at(path)) from None
        finally:
            source.close()
        return
    with Container.open(path) as container:
        yield Side({name: _container_part(container, name) for name in container.components}, container)


def compare(before: Side, after: Side) -> Diff:
    """What differs from one open file to the other."""
    changes: list[Change] = []
    if before.container is not None and after.container is not None:
        changes = _compare_containers(before.container, after.container)
    both = dict(pairs(before, after))
    changes += [change for name, (a, b) in both.items() for change in _ties(name, a, b)]
    left = [part for part, _ in both.values()]
    right = [part for _, part in both.values()]
    return Diff(
        changes,
        {name: _compare_tensors(a, b) for name, (a, b) in both.items()},
        [name for name, part in before.parts.items() if part not in left],
        [name for name, part in after.parts.items() if part not in right],
    )


def pairs(before: Side, after: Side) -> Iterator[tuple[str, tuple[Part, Part]]]:
    """The components that can be compared, by name."""
    if before.container is None and after.container is not None:
        name = _closest(before.parts["tensors"], after)
        yield name, (before.parts["tensors"], after.parts[name])
    elif after.container is None and before.container is not None:
        name = _closest(after.parts["tensors"], before)
        yield name, (before.parts[name], after.parts["tensors"])
    else:
        for name in before.parts:
            if name in after.parts:
                yield name, (before.parts[name], after.parts[name])


def _closest(plain: Part, side: Side) -> str:
    return max(side.parts, key=lambda name: len(plain.tensors.keys() & side.parts[name].tensors.keys()))


def _container_part(container: Container, component: str) -> Part:
    return Part(
        container.source,
        container.data_offset(component),
        lambda: container.header(component),
        container.manifest.components[component].header_digest,
    )


def _compare_tensors(before: Part, after: Part) -> ComponentDiff:
    if before.header_digest and before.header_digest == after.header_digest:
        return ComponentDiff([], [], [], [])
    a, b = before.tensors, after.tensors
    reshaped, changed = [], []
    for name in sorted(a.keys() & b.keys()):
        if (a[name].dtype, a[name].shape) != (b[name].dtype, b[name].shape):
            reshaped.append(Reshaped(name, _form(a[name]), _form(b[name])))
        elif before.digest(a[name]) != after.digest(b[name]):
            changed.append(Changed(name))
    return ComponentDiff(sorted(b.keys() - a.keys()), sorted(a.keys() - b.keys()), reshaped, changed)


def _ties(component: str, before: Part, after: Part) -> Iterator[Change]:
    """Names on both sides that are tied to another one, or not to the same."""
    if not before.header_digest or before.header_digest == after.header_digest:
        return
    a, b = before.header.aliases, after.header.aliases
    for name in sorted((a.keys() | b.keys()) & before.tensors.keys() & after.tensors.keys()):
        if after.header_digest and a.get(name) != b.get(name):
            yield Change(f"{component}.tied.{name}", a.get(name, UNSET), b.get(name, UNSET))


def _form(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def _compare_containers(before: Container, after: Container) -> list[Change]:
    changes: list[Change] = []
    if encode_manifest(before.manifest) != encode_manifest(after.manifest):
        a, b = _document(before), _document(after)
        if "vocoder" not in a or "vocoder" not in b:  # said as a component
            a.pop("vocoder", None), b.pop("vocoder", None)
        changes += _walk("", a, b)
    return changes + list(_walk("signature", _signer(before), _signer(after)))


def _document(container: Container) -> dict[str, Any]:
    """The manifest as plain values, without what follows from the weights."""
    manifest: Manifest = container.manifest
    for error in check_open_objects(manifest):
        raise error.at(container.path)
    document: dict[str, Any] = msgspec.json.decode(encode_manifest(manifest))
    for component in manifest.components:
        for key in _OF_THE_WEIGHTS:
            del document[component][key]
    return document


def _signer(container: Container) -> Any:
    armor = container.read_entry(SIGNATURE_NAME)
    if armor is None:
        return UNSET
    found = decode_armor(armor)
    return f"{found.key_type} {found.fingerprint}"


def _walk(path: str, a: Any, b: Any) -> Iterator[Change]:
    a, b = _readable(a), _readable(b)
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a | b:
            inner = f"{path}.{key[:_SHOWN]}" if path else key[:_SHOWN]
            yield from _walk(inner, a.get(key, UNSET), b.get(key, UNSET))
    elif a is not b and (UNSET in (a, b) or _encode(a) != _encode(b)):  # encoded, 1, 1.0 and true differ
        yield Change(path, a, b)


def _readable(value: Any) -> Any:
    """A value, or what tells an array from another one."""
    if not isinstance(value, dict) or set(value) != _ARRAY_KEYS:
        return value
    dtype, shape, data = value["dtype"], value["shape"], value["base64"]
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(data, str)):
        return value  # it only looks like an array
    return f"{dtype} {shape} blake3:{_safetensors.digest(_encode(data))[:16]}"


class _PlainRecord(Record, frozen=True, gc=False, forbid_unknown_fields=False):
    """A record of a header that others wrote."""


def _is_plain(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a safetensors file; what cannot be opened is left to Container."""
    try:
        source = open_file(path)
    except (DistillganError, OSError):
        return False
    try:
        return source.read(8, 1) == b"{"
    finally:
        source.close()


def _plain_part(source: FileSource) -> Part:
    """A plain safetensors file, read leniently: order, padding and metadata are as they come."""
    length = int.from_bytes(source.read(0, 8), "little")
    if length > min(source.size - 8, _MAX_PLAIN_HEADER):
        raise FormatError("safetensors.length", f"the header says {length} bytes, more than there can be")
    header = _plain_header(source.read(8, length), source.size - 8 - length)
    return Part(source, 8 + length, lambda: header)


def _plain_header(text: bytes, data_bytes: int) -> Header:
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(raw.pop("__metadata__", b"{}"), type=dict[str, str])
        records: dict[str, Record] = {
            name: msgspec.json.decode(record, type=_PlainRecord) for name, record in raw.items()
        }
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError("safetensors.json", f"the header cannot be read: {error}") from None
    parameters = sum(_check_plain(name, record, data_bytes) for name, record in records.items())
    extents = sorted((*record.data_offsets, name) for name, record in records.items())
    for (_, end, _), (begin, _, name) in itertools.pairwise(extents):
        if begin < end:
            raise FormatError("safetensors.extent", "overlaps another tensor", where=name)
    ties = {key.removeprefix(_ALIAS): name for key, name in metadata.items() if key.startswith(_ALIAS)}
    aliases = {n: stored for n, stored in ties.items() if stored in records and n not in records}
    return Header(records, "", aliases, parameters)


def _check_plain(name: str, record: Record, data_bytes: int) -> int:
    """Check that a tensor lies in the data; return its elements."""
    begin, end = record.data_offsets
    item = ITEM_SIZE.get(record.dtype)
    count = elements(record.shape, item or 1, name)
    if not begin <= end <= data_bytes or (item and count * item != end - begin):
        raise FormatError(
            "safetensors.extent", "its place does not fit its shape, or lies outside the file", where=name
        )
    return count
