"""Files that are not containers get a sentence that says what they are; no pickle is ever run."""

from __future__ import annotations

import gzip
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CHECKPOINT, GENERATOR, V1_FILE, V1_REFERENCE

from distillgan import Container, FormatError, LegacyFormatError, read_manifest, verify
from distillgan._foreign import pickle_globals, pickle_marker

DOORS = [read_manifest, Container.open, lambda path: raise_first(path)]


def raise_first(path: Path) -> None:
    problem = verify(path)[0]
    raise (LegacyFormatError() if problem.code == "legacy.v1" else FormatError(problem.code, problem.message))


def model(marker: str) -> dict[str, Any]:
    """What the app's own saving wrote, of either age."""
    return {
        "format": marker,
        "version": 1,
        "metadata": {"name": "Rain", "tags": ["a"]},
        "model_state_dict": {"w": torch.ones(3)},
    }


def torch_file(path: Path, value: object, *, old: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not old)
    return path


def refusal(door: Any, path: Path) -> FormatError:
    with pytest.raises(FormatError) as caught:
        door(path)
    return caught.value


@pytest.mark.parametrize("door", DOORS, ids=["read_manifest", "open", "verify"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", ["a.pt", "a.distillgan", "a"])
def test_a_v1_model_under_any_name_gets_exactly_the_sentence(
    door: Any, old: bool, name: str, tmp_path: Path
) -> None:
    error = refusal(door, torch_file(tmp_path / name, model("distill_model"), old=old))
    assert isinstance(error, LegacyFormatError)
    assert str(error) == V1_FILE
    assert error.code == "legacy.v1"


def test_a_v1_model_is_known_by_a_plain_pickle_of_any_protocol(tmp_path: Path) -> None:
    for protocol in range(2, 6):
        path = tmp_path / f"{protocol}.pt"
        path.write_bytes(pickle.dumps({"format": "distill_model", "version": 1}, protocol))
        assert str(refusal(read_manifest, path)) == V1_FILE


def test_the_marker_is_known_where_its_key_was_met_before(tmp_path: Path) -> None:
    key = "format"
    value = {"notes": [key], **model("distill_model")}
    assert str(refusal(read_manifest, torch_file(tmp_path / "a.pt", value))) == V1_FILE


def test_the_marker_of_the_model_counts_and_not_one_inside_a_configuration(tmp_path: Path) -> None:
    inner = {"training_config": {"format": "distill_model"}, "model_state_dict": {"w": torch.ones(3)}}
    assert refusal(read_manifest, torch_file(tmp_path / "a.pt", inner)).code == "file.format"
    outer = {"audio": {"format": "wav"}, **model("distill_model")}
    assert refusal(read_manifest, torch_file(tmp_path / "b.pt", outer)).code == "legacy.v1"


@pytest.mark.parametrize("exists", [True, False])
def test_a_path_that_ends_in_distill_is_never_opened(exists: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.distill"
    if exists:
        os.mkfifo(path)
    for door in (read_manifest, Container.open):
        assert str(refusal(door, path)) == V1_FILE
    assert [p.code for p in verify(path)] == ["legacy.v1"]
    assert V1_REFERENCE != V1_FILE


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_a_model_that_torch_saved_is_told_what_to_do_instead(old: bool, tmp_path: Path) -> None:
    error = refusal(read_manifest, torch_file(tmp_path / "a.distillgan", model("distillgan_model"), old=old))
    assert error.code == "legacy.torch"
    assert "pack" in error.message
    assert "checkpoint" in error.message


@pytest.mark.parametrize("path", [CHECKPOINT, GENERATOR], ids=lambda p: p.name)
def test_a_real_checkpoint_is_told_to_be_packed(path: Path) -> None:
    error = refusal(read_manifest, path)
    assert error.code == "file.format"
    assert "distillgan pack" in error.message


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (gzip.compress(b"abc"), "gzip"), (b"GGUF\3\0\0\0" + bytes(60), "GGUF"), (b"fLaC" + bytes(60), "FLAC"),
        (b"RIFF" + bytes(60), "WAV"), (b"\x89HDF\r\n" + bytes(60), "HDF5"),
        (b"\2\0\0\0\0\0\0\0{}" + bytes(60), "safetensors"), (b"<!DOCTYPE html>" + bytes(60), "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n" + bytes(60), "not a .distillgan"),
        (b"PK\3\4" + bytes(100), "ZIP"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_a_foreign_file_is_called_by_its_name(data: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "a.distillgan"
    path.write_bytes(data)
    error = refusal(read_manifest, path)
    assert error.code == "file.format"
    assert word in error.message
    assert error.path == str(path)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 10, 30, 42])
def test_the_beginning_of_a_container_is_a_truncated_one(size: int, tmp_path: Path, real_pair: Path) -> None:
    path = tmp_path / "a.distillgan"
    path.write_bytes(real_pair.read_bytes()[:size])
    assert refusal(read_manifest, path).code == "zip.truncated"


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_looking_at_a_pickle_runs_nothing_of_it(old: bool, tmp_path: Path) -> None:
    value = model("distill_model") | {"x": Hostile(tmp_path / "made")}
    path = torch_file(tmp_path / "a.distillgan", value, old=old)
    for door in DOORS:
        refusal(door, path)
    assert not (tmp_path / "made").exists()


def test_globals_are_listed_without_being_imported() -> None:
    data = b"\x80\x02cdistill.training.config\nOverfittingPreset\nq\0cposix\nmkdir\n."
    assert pickle_globals(data) == {"distill.training.config.OverfittingPreset", "posix.mkdir"}


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"\x80\x02", b"\x80\x02X\xff\xff\xff\xff", b"\x80\x04\x95" + b"\xff" * 8,
     b"\x80\x02I1e9\n.", b"\x80\x02cdistill\n", b"\x80\x02\x8a\xff", b"\x80\x02Vdistill\\ud800\n.",
     b"\x80\x02U\x05dis", b"\x80\x02L9"],
)  # fmt: skip
def test_a_damaged_pickle_has_no_marker_and_raises_nothing(data: bytes) -> None:
    assert pickle_marker(data) is None
    assert pickle_globals(data) == set()


@pytest.mark.parametrize(
    "body", [b"]" * 6_000_000, b"0" * 6_000_000, b"K\1" * 3_000_000, b"X\4\0\0\0abcd" * 700_000]
)
def test_a_huge_pickle_is_refused_quickly(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.distillgan"
    path.write_bytes(b"\x80\x02X\x07\0\0\0distill" + body)
    start = time.monotonic()
    assert refusal(read_manifest, path).code == "file.format"
    assert time.monotonic() - start < 5
