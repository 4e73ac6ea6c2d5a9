"""What is fuzzed: for each parser its seeds, and what must hold for any bytes whatever.

A check returns for bytes that were accepted or refused as they should be, and raises for a finding:
an exception that is not ours, a second that passed, or an accepted input that does not encode to
the same bytes again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

import distillgan._diff as diffs
from distillgan import _archive, _foreign, _index, _safetensors, _transport, container, manifest, signature
from distillgan.container import BufferSource, Container
from distillgan.errors import DistillganError
from distillgan.preview import describe_preview
from distillgan.verify import _check as check_rest
from distillgan.writer import BytesContent

FIXTURES = Path(__file__).parent.parent / "fixtures"
sys.path.insert(0, str(FIXTURES))

import make_vectors  # noqa: E402
from _valid import cases as valid_cases  # noqa: E402

LONGEST = 1.0  # seconds of processor time that any input may take
_LARGEST_SEED = 64 * 1024


class Wrong(Exception):  # noqa: N818  (a finding, not an error)
    """An oracle said no."""


class Target(NamedTuple):
    """A parser under test: what must hold for any bytes, and the bytes to begin with."""

    check: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    dictionary: tuple[str, ...] = ()
    max_len: int = 4096


def judge(check: Callable[[bytes], object], data: bytes) -> None:
    """Run a check: our own refusals are fine, everything else is a finding, slowness included."""
    begin = time.thread_time()
    try:
        check(data)
    except DistillganError as error:
        str(error)
    seconds = time.thread_time() - begin
    if seconds > LONGEST:
        raise Wrong(f"took {seconds:.1f} s of processor time for {len(data)} bytes")


def demand(condition: object, sentence: str) -> None:
    """Raise Wrong unless the condition holds."""
    if not condition:
        raise Wrong(sentence)


def check_layout(data: bytes) -> None:
    """Central directory and all that surrounds the data: what is accepted is made again from itself.

    Nothing shorter than a first local header gets here: a manifest is read before.
    """
    if len(data) < _archive.FIRST_HEADER:
        return
    found = _archive.read_layout(source_of(data))
    pieces = []
    for entry, header in zip(found.entries, found.headers, strict=True):
        pieces += [header, data[entry.offset : entry.offset + entry.size]]
    demand(b"".join([*pieces, found.tail]) == data, "an accepted archive has other bytes than its layout")
    demand(found.size == len(data), "an accepted archive has another size than its layout")


def check_local(data: bytes) -> None:
    """The first local header, and what is said of a file that does not begin with one."""
    try:
        size, crc = _archive.first_values(data)
    except DistillganError:
        container._decode_head(data, len(data), source_of(data).read)
        raise Wrong("a manifest was read behind a bad local header") from None
    demand(_archive.first_header(size, crc) == data[: _archive.FIRST_HEADER], "another local header")


def check_manifest(data: bytes) -> None:
    """`manifest.json`: accepted bytes are canonical, and mean the same to Python's own json."""
    found = manifest.decode_manifest(data)
    demand(manifest.encode_manifest(found) == data, "an accepted manifest encodes to other bytes")
    problems = manifest.check_open_objects(found)
    plain = None if problems else json.loads(data, object_pairs_hook=once)
    if plain is None:
        return
    demand(plain["metadata"]["name"] == found.metadata.name, "two readings of the name")
    demand(plain["training_config"] == found.training_config, "two readings of training_config")
    for name in ("spectrogram_config", "latent_analysis"):
        demand(plain.get(name) == getattr(found, name), f"two readings of {name}")
    demand(plain["vae"]["data_bytes"] == found.vae.data_bytes, "two readings of data_bytes")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys stand once each."""
    demand(len(dict(pairs)) == len(pairs), "an accepted document has a key twice")
    return dict(pairs)


def check_header(data: bytes) -> None:
    """A safetensors header: `R` and raw bytes, or its JSON, which gets its length and padding here."""
    raw = data[1:] if data[:1] == b"R" else _safetensors._frame(data)
    found = _safetensors.decode_header(raw)
    again = _safetensors.encode_header(found.tensors.values(), found.aliases)
    demand(again == raw, "an accepted header encodes to other bytes")
    position = 0
    for spec in found.tensors.values():
        demand(spec.begin == position, "accepted tensors overlap or leave a gap")
        position = spec.end
    check_stock(raw, found)


def check_stock(raw: bytes, found: _safetensors.Header) -> None:
    """The stock library reads the same names, dtypes and shapes, as long as the data is small."""
    if found.data_bytes > 1 << 16 or any(spec.dtype == "F8_E8M0" for spec in found.tensors.values()):
        return
    import safetensors

    stock = dict(safetensors.deserialize(raw + bytes(found.data_bytes)))
    demand(stock.keys() == found.tensors.keys(), "the stock library sees other tensors")
    for name, spec in found.tensors.items():
        demand(tuple(stock[name]["shape"]) == spec.shape, f"the stock library sees another shape: {name}")


def check_plain(data: bytes) -> None:
    """The header of a plain safetensors file, read leniently for `diff`."""
    diffs._plain_header(data, 1 << 20)


def check_armor(data: bytes) -> None:
    """SSHSIG armor: `R` and raw bytes, or the blob, which gets its armor here."""
    armor = data[1:] if data[:1] == b"R" else signature._encode_armor(data)
    found = signature.decode_armor(armor)
    demand(found.fingerprint.startswith("SHA256:"), "no fingerprint")
    demand(found.public_key in data or data[:1] == b"R", "a key that is not in the blob")


def check_frame(data: bytes) -> None:
    """The transport form: what is accepted is what zstd itself makes of it in one call."""
    found = _transport.decompress(data)
    if len(found) < 1 << 20:
        whole = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        demand(whole == bytes(found), "zstd reads something else")


def check_preview(data: bytes) -> None:
    """STREAMINFO of a FLAC file."""
    found = describe_preview(data)
    demand(0 < found.sample_rate < 1 << 20, "a rate that 20 bits do not hold")
    demand(found.bytes == len(data) and found.duration_s > 0, "a preview without length")


def check_pickle(data: bytes) -> None:
    """Opcodes of a pickle, scanned and never run."""
    _foreign.pickle_globals(data)
    marker = _foreign.pickle_marker(data)
    demand(marker is None or isinstance(marker, str), "a marker that is no string")
    _foreign.refuse_saved_model(data)


def check_foreign(data: bytes) -> None:
    """What is said of a file that is not a container."""
    read = source_of(data).read
    _foreign.explain(data[:8192], len(data), read)
    _foreign.explain_zip(len(data), read)
    _foreign.read_pickle(len(data), read)


def check_index(data: bytes) -> None:
    """`model_library.json`: used or not, and what is used is written the same way each time."""
    try:
        listing = _index._to_listing(_index._decode_index(data), 0)
    except _index.UnusableIndexError:
        return
    listing.settle()
    body = _index.encode_index(listing)
    again = _index._to_listing(_index._decode_index(body), 0)
    again.settle()
    demand(_index.encode_index(again) == body, "an index that does not survive being read")
    for record in listing.records():
        _index.to_entry(record)


def check_whole(data: bytes) -> None:
    """A whole file through every door; what `verify` accepts is written again to the same bytes."""
    source = source_of(data)
    problems = verify_bytes(source)
    try:
        found = open_bytes(source)
        tensors = {name: found.tensors(name) for name in found.components}
    except DistillganError:
        demand(problems, "verify finds nothing in a file that does not open")
        raise
    if not problems:
        demand(rebuild(found) == data, "an accepted file is written again to other bytes")
        demand(tensors, "an accepted file without tensors")


def source_of(data: bytes) -> BufferSource:
    """A file in memory that fails as a file on disk does for an offset beyond every file."""
    return _Source(memoryview(data))


def open_bytes(source: BufferSource) -> Container:
    """`Container.open` of bytes in memory."""
    found = container._manifest_of(source)
    return Container(source, "x", found, container._read_entries(source, found))


def verify_bytes(source: BufferSource) -> list[object]:
    """What `verify` finds in bytes in memory."""
    container._open_source = lambda _: source
    try:
        found, errors = Container.salvage("x")
    except DistillganError as error:
        return [error]
    return [*errors, *check_rest(found, False, lambda _: None)]


def rebuild(found: Container) -> bytes:
    """The file that the writer makes of an open one."""
    import io

    from distillgan.writer import write_container

    contents = {}
    for entry in found.entries[1:]:
        contents[entry.name] = BytesContent(found.source.read(entry.offset, entry.size))
    file = io.BytesIO()
    write_container(file, lambda: found.manifest, contents)
    return file.getvalue()


class _Source(BufferSource):
    def read(self, offset: int, length: int) -> bytes:
        if offset >= self.size:
            return b""  # as of a file, whose system call is not made
        if not offset >= 0 or not 0 <= length < 2**63:
            raise OverflowError("no system call takes this offset or length")
        return super().read(offset, length)


def files() -> list[bytes]:
    """Every vector, kept or not, that is small."""
    found = [content for _, _, content in valid_cases()]
    for case in make_vectors.bad_cases():
        content = case.content
        found.append(content if isinstance(content, bytes) else b"".join(content.pieces()))  # type: ignore[arg-type]
    return [data for data in found if len(data) <= _LARGEST_SEED]


def members(name: str) -> list[bytes]:
    """A member's bytes in each of the vectors that begins as a container does."""
    found = []
    for data in files():
        try:
            layout = _archive.read_layout(BufferSource(memoryview(data)))
        except DistillganError:
            continue
        found += [data[e.offset : e.offset + e.size] for e in layout.entries if e.name == name]
    return list(dict.fromkeys(found))


def headers() -> list[bytes]:
    """The JSON of each vector's safetensors headers."""
    found = [*members("vae.safetensors"), *members("vocoder.safetensors")]
    texts = []
    for member in found:
        length = int.from_bytes(member[:8], "little")
        texts += [member[8 : 8 + length].rstrip(b" "), b"R" + member[: 8 + length]]
    return [text for text in dict.fromkeys(texts) if len(text) <= _LARGEST_SEED]


def armors() -> list[bytes]:
    """Armors, and the blobs inside."""
    import base64

    found = members("manifest.json.sig")
    lines = [armor.splitlines()[1:-1] for armor in found]
    blobs = []
    for line in lines:
        try:
            blobs.append(base64.b64decode(b"".join(line)))
        except ValueError:
            continue
    return [b"R" + armor for armor in found] + blobs


def frames() -> list[bytes]:
    """Transport files, and small frames of every level."""
    found = [data for data in files() if data[:4] == b"\x28\xb5\x2f\xfd"]
    return [*found, _transport.compress(b""), _transport.compress(bytes(range(256)))]


def pickles() -> list[bytes]:
    """Pickles of the vectors, and of a few Python values."""
    import collections
    import pickle

    value = collections.OrderedDict({"format": "distill_model", "x": [1, 2.5, 10**30, b"raw", None, {1}]})
    found = [data for data in files() if data[:1] == b"\x80"]
    return found + [pickle.dumps(value, protocol) for protocol in range(6)]


def indexes() -> list[bytes]:
    """An index with a model, a duplicate, a missing one and a problem."""
    listing = _index.Listing()
    for number in range(3):
        path = f"m{number}.distillgan"
        record = _index.Record(f"id{number // 2}", "Rain", path, 8410, mtime_ns=number, inode=number)
        record.vocoder = _index.VocoderInfo("hifigan_v2", 200, 0.03, "2026-02-21")
        listing.files[path] = record
    listing.missing["gone"] = _index.Record("gone", "Gone", "a/gone.distillgan", 1)
    listing.flaws["bad.distillgan"] = _index.Flaw("zip.truncated", "cut")
    listing.settle()
    body = _index.encode_index(listing)
    return [body, b'{"version":2}', b'{"version":3}', b"{}", b""]


JSON_WORDS = ("null", "true", "1e400", "-0", "9223372036854775807", "\\u0000", "\\ud800", "[[[[", "{}", "0.1")
TARGETS: dict[str, Target] = {
    "layout": Target(
        check_layout, files, ("PK\\x01\\x02", "PK\\x03\\x04", "PK\\x05\\x06", "PK\\x06\\x06"), 20000
    ),
    "local": Target(check_local, lambda: [data[:200] for data in files()], max_len=256),
    "manifest": Target(check_manifest, lambda: members("manifest.json"), JSON_WORDS),
    "header": Target(check_header, headers, (*JSON_WORDS, "alias:", "blake3", "F32", "BF16"), 8192),
    "plain": Target(check_plain, headers, (*JSON_WORDS, "alias:", "__metadata__"), 4096),
    "armor": Target(check_armor, armors, ("SSHSIG", "distillgan", "-----"), 1024),
    "frame": Target(check_frame, frames, ("(\\xb5/\\xfd",), 4096),
    "preview": Target(check_preview, lambda: members("preview.flac"), ("fLaC",), 512),
    "pickle": Target(check_pickle, pickles, ("format", "distill_model", "distillgan_model"), 2048),
    "foreign": Target(check_foreign, files, ("PK\\x01\\x02", "data.pkl"), 4096),
    "index": Target(check_index, indexes, (*JSON_WORDS, "models", "problems"), 4096),
    "whole": Target(check_whole, files, max_len=32768),
}
