"""ZIP structure: written in one way, read by comparison."""

from __future__ import annotations

import os
import socket
import struct
import zipfile
from pathlib import Path

import pytest
from helpers import FIXTURES
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgan import _archive
from distillgan.errors import FormatError

NAMES = ("manifest.json", "vae.safetensors", "vocoder.safetensors", "preview.flac", "manifest.json.sig")
LIMIT = 0xFFFFFFFE


class Sparse:
    """A file that is a hole but for the pieces given as {offset: bytes}."""

    def __init__(self, size: int, pieces: dict[int, bytes]):
        self.size = size
        self.pieces = pieces

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(max(0, min(length, self.size - offset)))
        for at, piece in self.pieces.items():
            begin, end = max(at, offset), min(at + len(piece), offset + len(data))
            if begin < end:
                data[begin - offset : end - offset] = piece[begin - at : end - at]
        return bytes(data)


def sparse(layout: _archive.Layout) -> Sparse:
    pieces = {e.offset - len(h): h for e, h in zip(layout.entries, layout.headers, strict=True)}
    return Sparse(layout.size, pieces | {layout.tail_offset: layout.tail})


def members(*sizes: int) -> list[tuple[str, int, int]]:
    return [(name, size, 7 * i + 1) for i, (name, size) in enumerate(zip(NAMES, sizes, strict=False))]


def test_the_structure_of_one_small_member_is_these_bytes() -> None:
    layout = _archive.layout([("manifest.json", 2, 0x04030201)])
    name, crc, size = b"manifest.json", b"\1\2\3\4", b"\2\0\0\0"
    local = b"PK\3\4\x14\0\0\x08\0\0\0\0\x21\0" + crc + size + size + b"\x0d\0\0\0" + name
    central = b"PK\1\2\x14\x03\x14\0\0\x08\0\0\0\0\x21\0" + crc + size + size + b"\x0d\0" + bytes(8)
    central += b"\0\0\xa4\x81\0\0\0\0" + name
    end = b"PK\5\6\0\0\0\0\1\0\1\0" + struct.pack("<LLH", len(central), len(local) + 2, 0)
    assert layout.headers == (local,)
    assert layout.tail == central + end


def test_a_safetensors_member_starts_on_a_page_and_nothing_else_does() -> None:
    layout = _archive.layout(members(100, 5000, 4096, 10, 20))
    offsets = {entry.name: entry.offset for entry in layout.entries}
    assert offsets["vae.safetensors"] % 4096 == offsets["vocoder.safetensors"] % 4096 == 0
    assert [len(header) for header in layout.headers[3:]] == [30 + 12, 30 + 17]


def test_the_alignment_record_is_the_shortest_that_aligns() -> None:
    for size in range(3900, 4200):
        layout = _archive.layout(members(size, 1))
        header = layout.headers[1]
        extra = header[30 + len("vae.safetensors") :]
        kind, length, alignment = struct.unpack_from("<3H", extra)
        assert (kind, alignment, length) == (0xD935, 4096, len(extra) - 4)
        assert 0 <= length - 2 <= 4095
        assert not any(extra[6:])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 20), st.lists(st.integers(0, 1 << 34), max_size=4))
def test_sizes_foreseen_are_sizes_written_and_read(first: int, others: list[int]) -> None:
    sizes = [first, *others]
    listed = members(*sizes)
    layout = _archive.layout(listed)
    assert _archive.total_size(first, [(name, size) for name, size, _ in listed[1:]]) == layout.size
    position = 0
    for entry in layout.entries:
        assert _archive.data_offset(entry.name, entry.size, position) == entry.offset
        position = entry.offset + entry.size
    assert _archive.read_layout(sparse(layout)) == layout


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 2])
def test_zip64_begins_at_the_limit_and_the_standard_library_agrees(size: int, tmp_path: Path) -> None:
    layout = _archive.layout(members(2, size, 10))
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        for entry, header in zip(layout.entries, layout.headers, strict=True):
            file.seek(entry.offset - len(header))
            file.write(header)
        file.seek(layout.tail_offset)
        file.write(layout.tail)
    with zipfile.ZipFile(path) as archive:
        found = [(i.filename, i.file_size, i.header_offset, i.extract_version) for i in archive.infolist()]
    starts = [e.offset - len(h) for e, h in zip(layout.entries, layout.headers, strict=True)]
    wide = 45 if size > LIMIT else 20
    last = 45 if starts[2] > LIMIT else 20
    expected_versions = [20, wide, last]
    assert found == [
        (e.name, e.size, start, version)
        for e, start, version in zip(layout.entries, starts, expected_versions, strict=True)
    ]
    assert (b"PK\6\6" in layout.tail) == (layout.tail_offset > LIMIT)


def test_every_flipped_bit_of_the_structure_is_refused() -> None:
    layout = _archive.layout(members(20, 300, 40, 9, 8))
    good = sparse(layout)
    for at, piece in good.pieces.items():
        for position in range(len(piece)):
            for bit in range(8):
                bad = bytearray(piece)
                bad[position] ^= 1 << bit
                try:
                    found = _archive.read_layout(Sparse(good.size, good.pieces | {at: bytes(bad)}))
                except FormatError as error:
                    assert error.code in ("zip.structure", "zip.truncated")
                else:
                    pytest.fail(f"bit {bit} of byte {at + position} makes {found}")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_structure_or_a_format_error(data: bytes) -> None:
    for body in (data, data + b"PK\5\6" + data[:18].ljust(18, b"\0")):
        with pytest.raises(FormatError):
            _archive.read_layout(Sparse(len(body), {0: body}))


def test_a_valid_vector_is_read_by_the_standard_zipfile_module() -> None:
    with zipfile.ZipFile(FIXTURES / "valid" / "full.distillgan") as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "manifest.json"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    fd = _archive.open_regular(tmp_path / "pipe")
    with pytest.raises(FormatError, match="a pipe") as caught:
        _archive.file_status(fd)
    os.close(fd)
    assert caught.value.code == "file.type"


@pytest.mark.parametrize(("name", "kind"), [("", "folder"), ("socket", "socket")])
def test_a_folder_or_a_socket_is_refused_by_what_it_is(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(FormatError, match=kind) as caught:
            _archive.file_status(_archive.open_regular(name or "."))
    assert caught.value.code == "file.type"


def test_a_looped_link_is_unreadable_and_a_missing_path_stays_missing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FormatError) as caught:
        _archive.open_regular(tmp_path / "loop")
    assert caught.value.code == "file.unreadable"
    with pytest.raises(FileNotFoundError):
        _archive.open_regular(tmp_path / "missing")


def test_a_path_with_a_nul_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        _archive.open_regular(f"{tmp_path}/a\0b")
    assert caught.value.code == "file.unreadable"
