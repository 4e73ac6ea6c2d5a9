"""Changing a model changes what was asked for, and nothing else."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from distillgan_cli.main import cli

from distillgan import Container, DistillganError, FormatError, ModelMetadata, read_manifest, verify
from distillgan import edit as edit_module
from distillgan._transport import compress
from distillgan.edit import edit_metadata, strip_vocoder
from distillgan.torch import save_model

VOCODER = {
    "type": "hifigan_v2",
    "state_dict": {"conv_pre.weight": torch.arange(4 * 128 * 7.0).reshape(4, 128, 7)},
    "config": {"sampling_rate": 48000},
}
SPECTROGRAM = {"sample_rate": 48000, "hop_length": 512, "n_mels": 128}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    metadata = ModelMetadata(
        model_id="6f9d", name="Rain", tags=["ambient"], save_date="2026-02-21", extra={"artist": "me"}
    )
    tensors = {"w": torch.arange(64.0), "b": torch.arange(5)}
    return save_model(tensors, SPECTROGRAM, {"lr": 0.1}, metadata, tmp_path, {"n": 1}, VOCODER)


def members(path: Path) -> dict[str, bytes]:
    with Container.open(path) as container:
        return {entry.name: container.read_entry(entry.name) or b"" for entry in container.entries}


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_an_edit_changes_the_fields_named_and_keeps_the_bytes_of_all_else(model: Path) -> None:
    before, old = members(model), read_manifest(model)
    edit_metadata(model, name="Snow", description="Soft.\n\tWhite.", training_epochs=9)
    after, new = members(model), read_manifest(model)
    assert verify(model) == []
    assert (new.metadata.name, new.metadata.description, new.metadata.training_epochs) == (
        "Snow",
        "Soft.\n\tWhite.",
        9,
    )
    assert (new.metadata.model_id, new.metadata.save_date) == ("6f9d", "2026-02-21")
    assert new.metadata.extra == {"artist": "me"}
    assert new.written_by == old.written_by
    assert {n: b for n, b in after.items() if n != "manifest.json"} == {
        n: b for n, b in before.items() if n != "manifest.json"
    }


def test_editing_back_gives_the_same_file(model: Path) -> None:
    before = model.read_bytes()
    edit_metadata(model, name="Snow", extra={"artist": "you"})
    edit_metadata(model, name="Rain", extra={"artist": "me"})
    assert model.read_bytes() == before


def test_fields_that_were_absent_stay_absent(model: Path) -> None:
    with Container.open(model) as container:
        raw = b'{"model_id":"6f9d","name":"Rain","save_date":"2026-02-21","artist":null}'
        bare = edit_module.replace(container.manifest, metadata_json=edit_module.msgspec.Raw(raw))
        edit_module.rewrite(container, lambda: bare, edit_module.kept(container))
    edit_metadata(model, name="Snow", dataset_file_count=3)
    expected = (
        b'{"model_id":"6f9d","name":"Snow","dataset_file_count":3,"save_date":"2026-02-21","artist":null}'
    )
    assert bytes(read_manifest(model).metadata_json) == expected


def test_tags_are_added_once_and_removed_if_there(model: Path) -> None:
    edit_metadata(model, add_tags=["rain", "ambient", "rain"], remove_tags=["none such"])
    assert read_manifest(model).metadata.tags == ["ambient", "rain"]
    edit_metadata(model, add_tags="tin", remove_tags="ambient")
    assert read_manifest(model).metadata.tags == ["rain", "tin"]


def test_none_forgets_a_number_and_a_key_of_ones_own(model: Path) -> None:
    edit_metadata(model, training_epochs=9, final_val_loss=0.5, extra={"bpm": 120})
    edit_metadata(model, training_epochs=None, final_val_loss=None, extra={"artist": None})
    metadata = read_manifest(model).metadata
    assert (metadata.training_epochs, metadata.final_val_loss, metadata.extra) == (None, None, {"bpm": 120})
    assert b'"training_epochs"' not in bytes(read_manifest(model).metadata_json)


def test_a_copy_gets_an_id_of_its_own(model: Path) -> None:
    edit_metadata(model, new_id=True)
    metadata = read_manifest(model).metadata
    assert metadata.model_id != "6f9d" and len(metadata.model_id) == 36
    assert metadata.save_date == "2026-02-21"


def test_an_edit_that_changes_nothing_leaves_the_file_alone(model: Path) -> None:
    before = os.stat(model)
    edit_metadata(model, name="Rain", add_tags=["ambient"])
    after = os.stat(model)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize(
    "name",
    ["model_id", "save_date", "has_analysis", "n_active_components", "spectrogram_config", "training_config",
     "latent_analysis", "vae", "vocoder", "vae.architecture", "latent_dim", "format", "version",
     "written_by"],
)  # fmt: skip
def test_a_field_that_is_not_the_users_is_refused_by_name(model: Path, name: str) -> None:
    before = model.read_bytes()
    with pytest.raises(DistillganError, match=f"^{name} cannot be edited: "):
        edit_metadata(model, **{name: "x"})
    with pytest.raises(DistillganError, match=f"^{name} cannot be edited: "):
        edit_metadata(model, extra={name: "x"})
    code, _, complaint = run("edit", model, "--set", f"{name}=x")
    assert code == 2 and f"{name} cannot be edited" in complaint
    assert model.read_bytes() == before


def test_a_date_that_was_stored_does_not_stand_in_the_way_of_another_change(tmp_path: Path) -> None:
    metadata = ModelMetadata(name="Rain", training_date="yesterday")
    path = save_model({"w": torch.ones(2)}, None, None, metadata, tmp_path)
    edit_metadata(path, name="Snow")
    found = read_manifest(path).metadata
    assert (found.name, found.training_date) == ("Snow", "yesterday")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"nmae": "x"}, "nmae is not a field"),
        ({"extra": {"name": "x"}}, "name is a field"),
        ({"name": " "}, "a model needs a name"),
        ({"name": None}, "name"),
        ({"name": "a\x1b[31m"}, "control characters"),
        ({"name": "\ud800"}, "cannot be written"),
        ({"tags": "ambient"}, "tags"),
        ({"training_epochs": "7"}, "training_epochs"),
        ({"training_epochs": -1}, "training_epochs"),
        ({"final_val_loss": float("nan")}, "not finite"),
        ({"training_date": "yesterday"}, "ISO 8601"),
        ({"description": "x" * 2_000_000}, "at most 1048576"),
        ({"extra": {"x": object()}}, "no JSON value"),
        ({"extra": {"x": b"abc"}}, "no JSON value"),
        ({"extra": {"x": (float("nan"),)}}, "not finite"),
        ({"extra": {"x": ({1: 2},)}}, "not a string"),
        ({"extra": {"x": 2**64}}, "integer outside"),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused(
    model: Path, changes: dict[str, object], complaint: str
) -> None:
    before = model.read_bytes()
    with pytest.raises(DistillganError, match=complaint) as raised:
        edit_metadata(model, **changes)
    assert not isinstance(raised.value, FormatError)  # the edit is at fault, not the file
    assert model.read_bytes() == before


def test_strip_takes_the_vocoder_and_keeps_the_rest(model: Path) -> None:
    before = members(model)
    strip_vocoder(model)
    assert verify(model) == []
    assert read_manifest(model).vocoder is None
    assert members(model) == {
        "manifest.json": members(model)["manifest.json"],
        "vae.safetensors": before["vae.safetensors"],
    }
    alone = model.read_bytes()
    strip_vocoder(model)
    assert model.read_bytes() == alone


def test_the_kernels_copy_and_the_portable_one_give_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.distillgan"
    other.write_bytes(model.read_bytes())
    edit_metadata(model, name="Snow")
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    edit_metadata(other, name="Snow")
    assert other.read_bytes() == model.read_bytes()


def test_damage_to_kept_weights_stays_as_visible_as_it_was(model: Path) -> None:
    with Container.open(model) as container:
        at = container.data_offset("vae") + 100
    spoil(model, at)
    before = verify(model)
    edit_metadata(model, name="Snow")
    assert [problem.code for problem in before] == ["digest.tensor", "zip.crc"]
    assert verify(model) == before


@pytest.mark.parametrize("place", ["manifest", "header", "directory", "cut"])
def test_a_damaged_file_is_refused_and_left_as_it_was(model: Path, place: str) -> None:
    with Container.open(model) as container:
        header = container.data_offset("vocoder") - 2000
    size = model.stat().st_size
    if place == "cut":
        os.truncate(model, size - 10)
    else:
        spoil(model, {"manifest": 60, "header": header, "directory": size - 40}[place])
    before = model.read_bytes()
    with pytest.raises(FormatError, match=re.escape(str(model))):
        edit_metadata(model, name="Snow")
    with pytest.raises(FormatError):
        strip_vocoder(model)
    assert model.read_bytes() == before


def test_a_compressed_model_is_refused_with_the_cure(model: Path) -> None:
    frame = model.with_name("rain.distillgan.zst")
    frame.write_bytes(compress(model.read_bytes()))
    with pytest.raises(DistillganError, match="is compressed: change what `distillgan decompress` makes"):
        edit_metadata(frame, name="Snow")


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace a file that is mapped")
def test_a_program_that_has_the_old_file_mapped_keeps_its_content(model: Path) -> None:
    before = model.read_bytes()
    with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        edit_metadata(model, name="Snow")
        assert mapped[:] == before != model.read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
def test_a_link_stays_and_what_it_points_to_is_changed(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.distillgan"
    link.parent.mkdir()
    link.symlink_to(model)
    edit_metadata(link, name="Snow")
    assert link.is_symlink() and read_manifest(model).metadata.name == "Snow"
    assert os.listdir(link.parent) == ["link.distillgan"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_stay(model: Path) -> None:
    model.chmod(0o640)
    edit_metadata(model, name="Snow")
    assert model.stat().st_mode & 0o777 == 0o640


def test_a_file_that_changed_since_it_was_opened_is_not_replaced(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = edit_module.write_container

    def meanwhile(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        spoil(model, 60)
        os.utime(model, (1, 1))

    monkeypatch.setattr(edit_module, "write_container", meanwhile)
    with pytest.raises(DistillganError, match="was changed by another program in the meantime"):
        edit_metadata(model, name="Snow")
    assert b"Rain" in model.read_bytes() and b"Snow" not in model.read_bytes()
    assert os.listdir(model.parent) == [model.name]


def test_a_full_disk_leaves_the_old_file_and_no_other(model: Path) -> None:
    pytest.importorskip("resource")
    before = model.read_bytes()
    script = (
        "import resource, sys; from distillgan.edit import edit_metadata\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        "try: edit_metadata(sys.argv[1], name='Snow')\n"
        "except OSError as error: print('refused:', error.strerror)"
    )
    done = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True, check=True)
    assert done.stdout == "refused: File too large\n"
    assert model.read_bytes() == before
    assert os.listdir(model.parent) == [model.name]


def test_the_command_edits_many_files_and_a_bad_one_does_not_stop_it(model: Path, tmp_path: Path) -> None:
    bad, other = tmp_path / "bad.distillgan", tmp_path / "other.distillgan"
    bad.write_bytes(b"not a model")
    other.write_bytes(model.read_bytes())
    code, out, complaint = run(
        "edit", model, bad, other, "--name", "Snow", "--add-tag", "x", "--new-id",
        "--set", "bpm=120", "--set", "mood=calm", "--set", "dataset_name=7", "--set", "training_epochs=3",
    )  # fmt: skip
    assert (code, out) == (1, f"{model}\n{other}\n")
    assert complaint.startswith(f"{bad}: file.format: ") and complaint.count("\n") == 1
    first, second = read_manifest(model).metadata, read_manifest(other).metadata
    assert first.model_id != second.model_id
    assert (first.name, first.tags, first.training_epochs) == ("Snow", ["ambient", "x"], 3)
    assert first.dataset_name == "7"
    assert first.extra == second.extra == {"artist": "me", "bpm": 120, "mood": "calm"}


def test_the_worst_exit_code_wins(model: Path, tmp_path: Path) -> None:
    code, out, complaint = run("edit", tmp_path / "none.distillgan", model, "--name", "Snow")
    assert (code, out) == (2, f"{model}\n")
    assert complaint == f"Model file not found: {tmp_path / 'none.distillgan'}\n"


@pytest.mark.parametrize("arguments", [[], ["--set", "bpm"], ["--set", "=1"]])
def test_misuse_is_said_before_any_file_is_touched(model: Path, arguments: list[str]) -> None:
    before = model.read_bytes()
    assert run("edit", model, *arguments)[0] == 2
    assert model.read_bytes() == before


def test_the_command_strips_many_files(model: Path, tmp_path: Path) -> None:
    code, out, complaint = run("strip", model, tmp_path / "none.distillgan")
    assert (code, out.split(" (")[0]) == (2, str(model))
    assert read_manifest(model).vocoder is None
    assert "Model file not found" in complaint


def spoil(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
