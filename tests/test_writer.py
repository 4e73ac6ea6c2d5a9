"""File names from models' names, and containers from their parts."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import msgspec
import pytest
from helpers import names_in
from hypothesis import given
from hypothesis import strategies as st

from distillgan import Container, FormatError, verify, writer
from distillgan.manifest import Manifest, ModelMetadata, Preview, Vae, encode_metadata, encode_object
from distillgan.writer import BytesContent, TensorContent, file_stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Rain on tin", "rain_on_tin"),
        ("  Wind / Sea!! ", "wind_sea"),
        ("ÄÖÜ", "äöü"),
        ("雨の音", "雨の音"),
        ("a-b_c", "a-b_c"),
        ("a.b", "a_b"),
        ("../../etc/passwd", "etc_passwd"),
        ("", "untitled"),
        ("...", "untitled"),
        ("💧", "untitled"),
        ("CON", "untitled"),
        ("Com1", "untitled"),
        ("lpt9", "untitled"),
        ("com¹", "untitled"),
        ("nul.", "untitled"),
        ("conin", "conin"),
        ("a\x00b\x1bc", "a_b_c"),
        ("A\u0308", "ä"),
        ("\u202egnp", "gnp"),
    ],
)
def test_a_models_name_becomes_this_file_name(name: str, stem: str) -> None:
    assert file_stem(name) == stem


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_name_becomes_a_file_name_that_every_system_accepts(name: str) -> None:
    stem = file_stem(name)
    assert stem
    assert len(stem) <= 100
    assert len(stem.encode()) <= 200
    assert stem == unicodedata.normalize("NFC", stem)
    assert not set(stem) & set('<>:"/\\|?*. \0')
    assert not any(unicodedata.category(c)[0] == "C" for c in stem)
    assert stem.upper() not in {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    assert file_stem(stem) == stem


def test_a_long_name_is_cut_between_characters() -> None:
    assert file_stem("a" * 300) == "a" * 100
    assert file_stem("雨" * 300) == "雨" * 66


class Ones:
    def __init__(self, name: str, count: int = 16):
        self.name, self.dtype, self.shape = name, "U8", (count,)

    def data(self) -> memoryview:
        return memoryview(b"\1" * self.shape[0])

    def examine(self, data: memoryview) -> None:
        assert data.nbytes == self.shape[0]


def parts(*tensors: Ones, **fields: object) -> tuple[object, dict[str, object]]:
    vae = TensorContent(tensors, {})

    def describe() -> Manifest:
        return Manifest(
            format="distillgan_model",
            version=1,
            written_by="test",
            metadata_json=encode_metadata(ModelMetadata(model_id="1", save_date="2026")),
            training_config_json=encode_object({}, "training_config"),
            vae=Vae(architecture="unknown", **vae.describe()),
            **fields,
        )

    return describe, {"vae.safetensors": vae}


def test_files_of_one_name_get_numbers(tmp_path: Path) -> None:
    made = [writer.create_named(tmp_path / "new", "Rain", *parts(Ones("a"))) for _ in range(3)]
    assert [path.name for path in made] == ["rain.distillgan", "rain_1.distillgan", "rain_2.distillgan"]
    assert [verify(path) for path in made] == [[], [], []]
    assert len({path.read_bytes() for path in made}) == 1


def test_a_name_taken_on_a_case_blind_disk_too_is_one_name(tmp_path: Path) -> None:
    first = writer.create_named(tmp_path, "RAIN", *parts(Ones("a")))
    second = writer.create_named(tmp_path, "rain", *parts(Ones("a")))
    assert (first.name, second.name) == ("rain.distillgan", "rain_1.distillgan")


def test_an_existing_file_is_refused_and_replaced_only_by_force(tmp_path: Path) -> None:
    target = tmp_path / "a.distillgan"
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        writer.create(target, *parts(Ones("a")))
    assert target.read_bytes() == b"old"
    writer.create(target, *parts(Ones("a")), force=True)
    assert verify(target) == []
    assert names_in(tmp_path) == ["a.distillgan"]


def test_a_tensor_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    class Broken(Ones):
        def data(self) -> memoryview:
            raise RuntimeError("the device is gone")

    target = tmp_path / "a.distillgan"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="gone"):
        writer.create(target, *parts(Ones("a", 9_000_000), Broken("b")), force=True)
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.distillgan"]


def test_each_tensor_is_asked_for_once_and_then_let_go(tmp_path: Path) -> None:
    asked: list[str] = []

    class Counted(Ones):
        def data(self) -> memoryview:
            asked.append(self.name)
            return super().data()

    writer.create(tmp_path / "a.distillgan", *parts(*(Counted(str(i), 5_000_000) for i in range(4))))
    assert sorted(asked) == ["0", "1", "2", "3"]


def test_many_small_tensors_and_empty_ones_are_written(tmp_path: Path) -> None:
    tensors = [Ones(f"t{i}", i % 70) for i in range(2000)]
    path = writer.create(tmp_path / "a.distillgan", *parts(*tensors))
    assert verify(path) == []
    with Container.open(path) as container:
        assert len(container.tensors("vae")) == 2000


def test_a_header_too_large_to_be_read_is_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        writer.create(tmp_path / "a.distillgan", *parts(Ones("x" * (9 << 20))))
    assert caught.value.code == "safetensors.length"
    assert names_in(tmp_path) == []


def test_progress_adds_up_to_the_bytes_of_the_data(tmp_path: Path) -> None:
    told: list[int] = []
    describe, contents = parts(Ones("a", 5_000_000), Ones("b", 3_000_000))
    sound = Preview(digest="blake3:" + "0" * 64, bytes=10, sample_rate=8000, duration_s=0.1)
    described = lambda: msgspec.structs.replace(describe(), preview=sound)  # noqa: E731
    contents["preview.flac"] = BytesContent(b"0123456789")
    writer.create(tmp_path / "a.distillgan", described, contents, progress=told.append)
    assert sum(told) == 8_000_010
