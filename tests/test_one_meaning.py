"""One meaning: every correct reader sees in a file what we see in it, or we refuse the file.

The readers: Python's zipfile, Info-ZIP unzip, 7-Zip, bsdtar through the central directory and, from
a pipe, through the local headers; and the stock safetensors library for the members with tensors.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors
from blake3 import blake3
from helpers import FIXTURES, ROOT

from distillgan import Container, DistillganError, verify

sys.path.insert(0, str(FIXTURES))
sys.path.insert(0, str(ROOT / "fuzz"))
import make_vectors
from _model import Model, other
from _on_demand import hole
from _zip import LIMIT

VALID = sorted((FIXTURES / "valid").glob("*.distillgan"))
CHUNK = 1 << 22
ZIPFILE_ERRORS = (
    zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, OverflowError, zlib.error, struct.error,
)  # fmt: skip


class Reading(NamedTuple):
    """What a reader sees: the members' names in order, and a digest of their bytes one after the other."""

    names: tuple[str, ...]
    digest: str


class Refused(Exception):  # noqa: N818  (an answer, not an error)
    """A reader says that the file is bad."""


def by_zipfile(path: Path) -> Reading:
    hasher = blake3()
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            for info in infos:
                with archive.open(info) as member:
                    feed(hasher, iter(lambda: member.read(CHUNK), b""))
    except ZIPFILE_ERRORS as error:
        raise Refused(str(error)) from None
    return Reading(tuple(info.filename for info in infos), hasher.hexdigest())


def by_unzip(path: Path) -> Reading:
    names = run("unzip", "-Z1", path).decode(errors="surrogateescape").splitlines()
    return Reading(tuple(names), digest_of("unzip", "-P", "x", "-p", path))


def by_7zip(path: Path) -> Reading:
    listing = run("7z", "l", "-slt", "-ba", "-px", "-tzip", path).decode(errors="surrogateescape")
    names = [line[7:] for line in listing.splitlines() if line.startswith("Path = ")]
    return Reading(tuple(names), digest_of("7z", "x", "-so", "-px", "-tzip", "-bd", path))


def by_bsdtar(path: Path) -> Reading:
    names = run("bsdtar", "-tf", path).decode(errors="surrogateescape").splitlines()
    return Reading(tuple(names), digest_of("bsdtar", "--passphrase", "x", "-xOf", path))


def by_bsdtar_from_a_pipe(path: Path) -> Reading:
    with path.open("rb") as file:
        names = run("bsdtar", "-tf", "-", stdin=file).decode(errors="surrogateescape").splitlines()
    with path.open("rb") as file:
        return Reading(tuple(names), digest_of("bsdtar", "--passphrase", "x", "-xOf", "-", stdin=file))


READERS: dict[str, tuple[str, Callable[[Path], Reading]]] = {
    "zipfile": ("", by_zipfile),
    "unzip": ("unzip", by_unzip),
    "7-Zip": ("7z", by_7zip),
    "bsdtar": ("bsdtar", by_bsdtar),
    "bsdtar from a pipe": ("bsdtar", by_bsdtar_from_a_pipe),
}


def by_us(path: Path) -> Reading:
    """What a container's entries are, once it is open; CRCs and digests are not asked."""
    hasher = blake3()
    with Container.open(path) as container:
        for entry in container.entries:
            end = entry.offset + entry.size
            places = range(entry.offset, end, CHUNK)
            feed(hasher, (container.source.read(at, min(CHUNK, end - at)) for at in places))
        return Reading(tuple(entry.name for entry in container.entries), hasher.hexdigest())


@pytest.mark.parametrize("reader", READERS)
def test_every_valid_vector_has_one_meaning(reader: str) -> None:
    read = tool(reader)
    assert VALID
    for path in VALID:
        assert read(path) == by_us(path), path.name


def test_the_stock_library_reads_the_tensors_that_we_read() -> None:
    for path in VALID:
        with Container.open(path) as container:
            for component in container.components:
                assert stock_tensors(container, component) == our_tensors(container, component), path.name


@pytest.mark.parametrize("reader", READERS)
def test_what_a_reader_sees_otherwise_is_refused(reader: str, tmp_path: Path) -> None:
    check_mutants(reader, tmp_path, mutants(seed=1, count=120))


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("reader", READERS)
def test_of_thousands_what_a_reader_sees_otherwise_is_refused(reader: str, seed: int, tmp_path: Path) -> None:
    check_mutants(reader, tmp_path, mutants(seed=100 + seed, count=500))


@pytest.mark.parametrize("reader", READERS)
def test_what_we_accept_with_new_checksums_every_reader_accepts(reader: str, tmp_path: Path) -> None:
    assert check_derived(reader, tmp_path, derived(seed=2, count=400), enough=25) >= 25


@pytest.mark.stress
@pytest.mark.parametrize("reader", READERS)
def test_of_thousands_what_we_accept_every_reader_accepts(reader: str, tmp_path: Path) -> None:
    assert check_derived(reader, tmp_path, derived(seed=3, count=20000), enough=600) >= 500


@pytest.mark.stress
def test_files_of_more_than_4_gib_have_one_meaning(tmp_path: Path) -> None:
    made = [path for path, expected in make_vectors.make_large(tmp_path) if "code" not in expected]
    model = Model(vae=hole(LIMIT + 2), vocoder=other())
    made.append(tmp_path / "zip64-vocoder-further.distillgan")
    make_vectors.put(made[-1], {"file": made[-1].name}, model.archive().pieces())
    for path in made:
        ours = by_us(path)
        for reader in READERS:
            # Info-ZIP takes a size of exactly 0xFFFFFFFF for the mark, and then refuses what follows.
            refuses = (reader, path.stem) == ("unzip", "zip64-vocoder")
            assert answer(tool(reader), path) == (None if refuses else ours), f"{path.name}: {reader}"


def check_mutants(reader: str, folder: Path, files: Iterable[bytes]) -> None:
    """Each file that opens is read alike by the reader, or it refuses; enough are read otherwise."""
    read, otherwise = tool(reader), 0
    path = folder / "mutant.distillgan"
    for data in files:
        path.write_bytes(data)
        seen, ours = answer(read, path), answer(by_us, path)
        assert ours is None or seen in (None, ours), f"we see {ours}, {reader} sees {seen}"
        otherwise += seen is not None and seen != ours
    assert otherwise >= 3, "no mutation that fools anybody: the test proves nothing"


def check_derived(reader: str, folder: Path, files: Iterable[bytes], enough: int) -> int:
    """How many files `verify` accepts; the reader sees in each of them what we see."""
    read, accepted = tool(reader), 0
    path = folder / "derived.distillgan"
    seen = {path.read_bytes() for path in VALID}
    for data in files:
        path.write_bytes(data)
        if data in seen or verify(path):
            continue
        seen.add(data)
        assert read(path) == by_us(path)
        accepted += 1
        if accepted == enough:
            break
    return accepted


def answer(read: Callable[[Path], Reading], path: Path) -> Reading | None:
    """What a reader sees, or None if it refuses."""
    try:
        return read(path)
    except (Refused, DistillganError):
        return None


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """Files spoiled by chance, most of them in their structure; the same ones each time."""
    chance = random.Random(seed)
    originals = [path.read_bytes() for path in VALID if path.stem in ("plain", "full", "vocoder", "signed")]
    for _ in range(count):
        data = bytearray(chance.choice(originals))
        if chance.random() < 0.5:  # first, because it needs a directory that is whole
            chance.choice(IN_DIRECTORY)(data, chance)
        for _ in range(chance.choice((0, 1, 1, 2))):
            chance.choice(ANYWHERE)(data, chance)
        yield bytes(data)


def derived(seed: int, count: int) -> Iterator[bytes]:
    """Files whose members were changed and whose checksums and digests were made right again."""
    import mutate

    chance = random.Random(seed)
    originals = [path.read_bytes() for path in VALID if path.stat().st_size < 20_000]

    def mutated(data: bytes, _: int) -> bytes:
        changed = bytearray(data or b"x")
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)

    for _ in range(count):
        yield mutate.whole(chance.choice(originals), 32768, chance, mutated)


def flip_in_structure(data: bytearray, chance: random.Random) -> None:
    data[chance.choice(places(data))] ^= 1 << chance.randrange(8)


def overwrite_field(data: bytearray, chance: random.Random) -> None:
    at = chance.choice(places(data))
    data[at : at + 4] = chance.choice((0, 1, 8, 0xFFFF, 0xFFFFFFFF, len(data), 4096)).to_bytes(4, "little")


def rename_member(data: bytearray, chance: random.Random) -> None:
    names = (b"manifest.json", b"vae.safetensors", b"preview.flac")
    at = data.find(chance.choice(names), chance.randrange(2) * (len(data) - 400))
    if at > 0:
        data[at + chance.randrange(8)] = chance.choice(b"/.MX\0\\")


def insert_bytes(data: bytearray, chance: random.Random) -> None:
    at = chance.choice((0, len(data), chance.choice(places(data)), data.rfind(b"PK\5\6")))
    data[at:at] = chance.randbytes(chance.choice((1, 2, 22, 46)))


def repeat_directory(data: bytearray, _: random.Random) -> None:
    """A second directory and end record behind the first."""
    begin, _end = directory(data)
    data += data[begin:]


def list_a_member_twice(data: bytearray, chance: random.Random) -> None:
    """Copy the first central record to the front or the end, and count it."""
    begin, end = directory(data)
    record = data[begin : begin + 46 + data[begin + 28]]
    count_members(data, +1, len(record))
    at = chance.choice((begin, end))
    data[at:at] = record


def drop_a_member(data: bytearray, _: random.Random) -> None:
    """Take the last central record out and count one less."""
    _, end = directory(data)
    last = data.rfind(b"PK\1\2")
    count_members(data, -1, last - end)
    del data[last:end]


def directory(data: bytearray) -> tuple[int, int]:
    """Where the central directory begins and ends."""
    end = data.rfind(b"PK\5\6")
    return int.from_bytes(data[end + 16 : end + 20], "little"), end


def count_members(data: bytearray, more: int, size: int) -> None:
    """Change the count of members and the size of the directory in the end record."""
    begin, end = directory(data)
    count = (data[end + 10] + more).to_bytes(2, "little")
    data[end + 8 : end + 16] = count * 2 + (end - begin + size).to_bytes(4, "little")


def cut(data: bytearray, chance: random.Random) -> None:
    del data[-chance.randrange(1, 300) :]


def flip_in_data(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


ANYWHERE = (
    flip_in_structure,
    flip_in_structure,
    overwrite_field,
    rename_member,
    insert_bytes,
    cut,
    flip_in_data,
)
IN_DIRECTORY = (repeat_directory, list_a_member_twice, drop_a_member, rename_member, overwrite_field)


def places(data: bytearray) -> list[int]:
    """Offsets in local headers, central records and the end record."""
    found, sizes = [], ((b"PK\3\4", 64), (b"PK\1\2", 64), (b"PK\5\6", 22))
    for magic, size in sizes:
        at = data.find(magic)
        while at >= 0:
            found += range(at, min(at + size, len(data)))
            at = data.find(magic, at + 4)
    return found or [0]


def our_tensors(container: Container, component: str) -> dict[str, Any]:
    start = container.data_offset(component)
    return {
        spec.name: (spec.dtype, list(spec.shape), container.source.read(start + spec.begin, spec.nbytes))
        for spec in container.header(component).tensors.values()
    }


def stock_tensors(container: Container, component: str) -> dict[str, Any]:
    entry = container.entry(f"{component}.safetensors")
    assert entry is not None
    found = safetensors.deserialize(container.source.read(entry.offset, entry.size))
    return {name: (t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in found}


def tool(reader: str) -> Callable[[Path], Reading]:
    """A reader; without its program the test is skipped, and fails in CI."""
    program, read = READERS[reader]
    if program and shutil.which(program) is None:
        absent = pytest.fail if os.environ.get("CI") else pytest.skip
        absent(f"{program} is not installed")
    return read


def run(*command: object, stdin: Any = subprocess.DEVNULL) -> bytes:
    """Output of a program that is content with the file."""
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=60, stdin=stdin)
    if done.returncode:
        raise Refused(f"{command[0]}: {done.returncode}")
    return done.stdout


def digest_of(*command: object, stdin: Any = subprocess.DEVNULL) -> str:
    """BLAKE3 of the output of a program that is content with the file."""
    hasher = blake3()
    pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(list(map(str, command)), **pipes) as process:
        assert process.stdout is not None
        feed(hasher, iter(lambda: process.stdout.read(CHUNK), b""))  # type: ignore[union-attr]
    if process.returncode:
        raise Refused(f"{command[0]}: {process.returncode}")
    return hasher.hexdigest()


def feed(hasher: Any, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        hasher.update(chunk)


def test_the_expectations_name_the_members_that_every_reader_lists() -> None:
    for path in VALID:
        expected = json.loads(path.with_suffix(".json").read_text("ascii"))
        assert [member["name"] for member in expected["members"]] == list(by_us(path).names)
