"""Headers of safetensors members: one spelling, checked by encoding again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgan import FormatError
from distillgan._safetensors import (
    ITEM_SIZE,
    MAX_HEADER,
    arrange,
    decode_header,
    digest,
    encode_header,
    is_hex,
)

names = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12).filter(
    lambda n: n != "__metadata__" and not any(0x7F <= ord(c) <= 0x9F for c in n)
)
tensors = st.dictionaries(
    names,
    st.tuples(st.sampled_from(sorted(ITEM_SIZE)), st.lists(st.integers(0, 20), max_size=4)),
    max_size=8,
)


def header(*rows: tuple[str, str, tuple[int, ...]], aliases: dict[str, str] | None = None) -> bytes:
    return encode_header(arrange(rows), aliases or {})


def reframed(text: bytes) -> bytes:
    length = -(-(8 + len(text)) // 4096) * 4096 - 8
    return length.to_bytes(8, "little") + text.ljust(length)


def spoiled(old: bytes, new: bytes, **options: Any) -> bytes:
    rows = (("w", "F32", (16,)), ("b", "F32", (3,)), ("c", "I64", ()))
    text = header(*rows, **options)[8:].rstrip(b" ")
    assert text.count(old) == 1
    return reframed(text.replace(old, new))


def code_of(raw: bytes) -> str:
    with pytest.raises(FormatError) as caught:
        decode_header(raw)
    return caught.value.code


def test_the_header_of_two_tensors_is_these_bytes() -> None:
    raw = header(("b", "F32", (3,)), ("w", "F32", (4, 4)))
    text = (
        b'{"__metadata__":{"format":"pt","blake3":"' + b"0" * 128 + b'"},'
        b'"w":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]},'
        b'"b":{"dtype":"F32","shape":[3],"data_offsets":[64,76]}}'
    )
    assert raw == (4088).to_bytes(8, "little") + text + b" " * (4088 - len(text))


def test_tensors_of_whole_lines_come_first_then_larger_items_then_names() -> None:
    rows = [
        ("z", "F32", (16,)), ("a", "U8", (64,)), ("bias8", "I64", ()), ("bias4b", "F32", (3,)),
        ("bias4a", "F32", (1,)), ("half", "F16", (1,)), ("byte", "U8", (1,)), ("empty", "F32", (0,)),
        ("é", "F32", (16,)), ("Z", "F32", (16,)),
    ]  # fmt: skip
    expected = ["Z", "a", "empty", "z", "é", "bias8", "bias4a", "bias4b", "half", "byte"]
    assert [spec.name for spec in arrange(rows)] == expected


def test_names_are_ordered_by_their_utf8_bytes() -> None:
    rows = [(name, "U8", (1,)) for name in ("\U00010000", "\uffff", "a", "ä")]
    assert [s.name for s in arrange(rows)] == sorted((r[0] for r in rows), key=lambda n: n.encode())


@settings(max_examples=150, deadline=None)
@given(tensors, st.data())
def test_what_is_written_reads_back(rows: dict[str, Any], data: st.DataObject) -> None:
    specs = arrange((name, dtype, shape) for name, (dtype, shape) in rows.items())
    unused = data.draw(st.lists(names.filter(lambda n: n not in rows), max_size=3, unique=True))
    pairs = [(alias, name) for alias in unused for name in rows if name < alias]
    aliases = dict(data.draw(st.lists(st.sampled_from(pairs), max_size=3)) if pairs else [])
    raw = encode_header(specs, aliases)
    found = decode_header(raw)
    assert list(found.tensors.values()) == specs
    assert found.aliases == aliases
    assert len(raw) % 4096 == 0
    assert found.data_bytes == sum(s.nbytes for s in specs)
    assert found.parameters == sum(math.prod(s.shape) for s in specs)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_a_format_error(body: bytes) -> None:
    for raw in (body, reframed(body), reframed(b'{"__metadata__":' + body), reframed(b"{" + body + b"}")):
        with pytest.raises(FormatError) as caught:
            decode_header(raw)
        assert caught.value.code.startswith("safetensors.")


def test_every_flipped_bit_of_a_header_is_refused_or_changes_what_it_says() -> None:
    raw = header(("w", "F32", (16,)), ("b", "F32", (3,)), aliases={"x": "w"})
    good = decode_header(raw)
    for position in range(len(raw.rstrip(b" ")) + 4):
        for bit in range(8):
            bad = bytearray(raw)
            bad[position] ^= 1 << bit
            try:
                found = decode_header(bytes(bad))
            except FormatError:
                continue
            assert found != good


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'"dtype":"I64"', b'"dtype":"I128"', "safetensors.dtype"),
        (b"[0,64]", b"[1,65]", "safetensors.extent"),
        (b"[0,64]", b"[64,0]", "safetensors.extent"),
        (b"[0,64]", b"[0,60]", "safetensors.extent"),
        (b'"shape":[3]', b'"shape":[-3]', "safetensors.json"),
        (b'"shape":[3]', b'"shape":[9223372036854775808]', "safetensors.json"),
        (b'"shape":[3]', b'"shape":[3.0]', "safetensors.json"),
        (b'"shape":[3]', b'"shape":[true]', "safetensors.json"),
        (b'"shape":[3]', b'"shape":[3],"extra":1', "safetensors.json"),
        (b'"shape":[3],', b"", "safetensors.json"),
        (b'"format":"pt"', b'"format":"np"', "safetensors.metadata"),
        (b'"format":"pt"', b'"format":"pt","other":"x"', "safetensors.metadata"),
        (b'"blake3":"0', b'"blake3":"A', "safetensors.metadata"),
        (b'"blake3":"0', b'"blake3":"', "safetensors.metadata"),
        (b',"b":{', b', "b":{', "safetensors.canonical"),
        (b',"b":{', b',"\\u0062":{', "safetensors.canonical"),
        (b',"b":{', b',"w":{', "safetensors."),
        (b'{"__metadata__"', b' {"__metadata__"', "safetensors.canonical"),
    ],
)
def test_a_header_with_one_thing_spoiled_is_refused(old: bytes, new: bytes, code: str) -> None:
    assert code_of(spoiled(old, new)).startswith(code)


@pytest.mark.parametrize(
    "aliases", [{"w": "b"}, {"x": "nothing"}, {"x": "x"}, {"a": "w"}], ids=["stored", "lost", "self", "least"]
)
def test_an_alias_that_names_no_stored_tensor_or_is_one_is_refused(aliases: dict[str, str]) -> None:
    assert code_of(header(("w", "F32", (1,)), ("b", "F32", (1,)), aliases=aliases)) == "safetensors.alias"


def test_an_alias_of_an_alias_is_refused() -> None:
    raw = header(("b", "F32", (1,)), aliases={"x": "b", "y": "x"})
    assert code_of(raw) == "safetensors.alias"


@pytest.mark.parametrize("shape", [(2**63 - 1, 0), (0,) * 500])
def test_shapes_without_elements_keep_their_sizes(shape: tuple[int, ...]) -> None:
    raw = encode_header(arrange([("w", "U8", shape)]), {})
    assert decode_header(raw).tensors["w"].shape == shape


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("U8", (2**63 - 1, 2**63 - 1, 0)), ("F32", (2**61, 0)), ("F32", (2,) * 61 + (0,)), ("U8", (2**40,) * 9)],
)
def test_a_shape_whose_sizes_overflow_is_refused(dtype: str, shape: tuple[int, ...]) -> None:
    raw = encode_header(arrange([("w", dtype, shape)]), {})
    assert code_of(raw) in ("safetensors.json", "safetensors.extent")


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b'{"__metadata__":' + b'{"a":' * 100_000, b'{"__metadata__":{},"w":' + b"[" * 100_000],
)
def test_a_deep_header_is_a_format_error(text: bytes) -> None:
    assert code_of(reframed(text)) == "safetensors.json"


def test_a_header_above_eight_mebibytes_is_refused_before_it_is_read() -> None:
    assert code_of(bytes(MAX_HEADER + 4096)) == "safetensors.length"


@pytest.mark.parametrize("name", ["__metadata__", "a\nb", "a\x1bb", "\x7f", "\x85", "\ud800"])
def test_a_name_that_no_header_can_hold_is_refused_when_written(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        arrange([(name, "F32", (1,))])
    assert caught.value.code == "safetensors.name"


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "alias:x", '"', "\\", "\u202e", "format", "blake3", "x" * 9000]
)
def test_odd_names_are_kept(name: str) -> None:
    raw = header((name, "F32", (1,)), aliases={name + "~": name})
    assert list(decode_header(raw).tensors) == [name]
    assert decode_header(raw).aliases == {name + "~": name}


@pytest.mark.parametrize("text", ["", "00", "0f" * 32])
def test_hex_is_hex(text: str) -> None:
    assert is_hex(text)


@pytest.mark.parametrize("text", ["0", "0F", " 00", "0 0", "zz", "00 ", "٠٠"])
def test_what_is_not_lower_case_hex_is_not(text: str) -> None:
    assert not is_hex(text)


def test_the_stock_library_opens_what_is_written(tmp_path: Path) -> None:
    rows = [
        ("w", "F32", (4, 4)),
        ("b", "BF16", (3,)),
        ("n", "I64", ()),
        ("e", "F16", (0, 3)),
        ("f8", "F8_E4M3", (2,)),
    ]
    specs = arrange(rows)
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_header(specs, {"x": "w"}) + bytes(specs[-1].end))
    with safetensors.safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == sorted(row[0] for row in rows)
        assert file.get_slice("w").get_shape() == [4, 4]
        assert file.metadata()["alias:x"] == "w"


def test_a_digest_is_blake3() -> None:
    assert digest(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def test_the_header_is_the_shortest_json_and_so_the_standard_library_reads_it() -> None:
    raw = header(("ü", "F32", (16,)), aliases={"ý": "ü"})
    value = json.loads(raw[8:])
    assert list(value) == ["__metadata__", "ü"]
    assert json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() == raw[8:].rstrip(b" ")
