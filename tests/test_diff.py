"""Two models are compared by what their manifests and headers say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from distillgan_cli.main import cli

from distillgan import Container, FormatError, IntegrityError, ModelMetadata, ModelNotFoundError
from distillgan import diff as diff_models
from distillgan._diff import Change, Changed, Reshaped
from distillgan.edit import edit_metadata
from distillgan.torch import attach_vocoder, diff_values, save_model

TENSORS = {"w": torch.arange(64.0), "b": torch.arange(5), "e": torch.empty(0, 3)}
VOCODER = {"type": "hifigan", "state_dict": {"v": torch.ones(3)}, "config": {"rates": [8, 8]}}


def make(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    values: dict[str, Any] = {"name": "Rain", "model_id": "6f9d", "save_date": "2026-02-21"}
    spectrogram = changes.pop("spectrogram", {"n_mels": 128, "f_max": None})
    analysis, vocoder = changes.pop("analysis", None), changes.pop("vocoder", None)
    metadata = ModelMetadata(**values | changes)
    return save_model(tensors or TENSORS, spectrogram, {"lr": 0.1}, metadata, folder, analysis, vocoder)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["diff", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_same_is_the_same(model: Path, tmp_path: Path) -> None:
    assert diff_models(model, make(tmp_path / "b")).same
    assert run(model, model) == (0, "no difference\n", "")


def test_manifest_differences_are_named_with_both_values(model: Path, tmp_path: Path) -> None:
    other = make(
        tmp_path / "b", name="Snow", tags=["x"], training_epochs=7, extra={"bpm": 120},
        spectrogram={"n_mels": 80.0, "f_max": None},
    )  # fmt: skip
    assert diff_models(model, other).manifest == [
        Change("metadata.name", "Rain", "Snow"),
        Change("metadata.tags", [], ["x"]),
        Change("metadata.training_epochs", msgspec.UNSET, 7),
        Change("metadata.bpm", msgspec.UNSET, 120),
        Change("spectrogram_config.n_mels", 128, 80.0),
    ]
    code, out, _ = run(model, other)
    assert code == 1
    assert out.splitlines()[0] == 'metadata.name: "Rain" -> "Snow"'
    assert "metadata.training_epochs: absent -> 7" in out


@pytest.mark.parametrize(("a", "b"), [(1, 1.0), (1, True), (0, False), (None, 0)])
def test_values_of_another_kind_differ(tmp_path: Path, a: object, b: object) -> None:
    paths = [make(tmp_path / str(i), extra={"x": value}) for i, value in enumerate((a, b))]
    assert [change.path for change in diff_models(*paths).manifest] == ["metadata.x"]


def test_what_only_looks_like_an_array_is_compared_as_it_is(tmp_path: Path) -> None:
    values = [{"dtype": "1", "shape": "[8]", "base64": ""}, {"dtype": 1, "shape": [8], "base64": ""}]
    paths = [make(tmp_path / str(i), extra={"x": value}) for i, value in enumerate(values)]
    assert not diff_models(*paths).same


def test_a_long_key_is_not_written_out_for_each_change_below_it(tmp_path: Path) -> None:
    values = [{"k" * 100_000: {str(i): side for i in range(1000)}} for side in range(2)]
    paths = [make(tmp_path / str(i), extra={"x": value}) for i, value in enumerate(values)]
    found = diff_models(*paths).manifest
    assert len(found) == 1000
    assert max(len(change.path) for change in found) < 300


def test_an_array_is_told_by_its_digest(tmp_path: Path) -> None:
    paths = [make(tmp_path / str(i), analysis={"mean": np.full(1000, i, np.float32)}) for i in (0, 1)]
    (change,) = diff_models(*paths).manifest
    assert change.path == "latent_analysis.mean"
    assert change.before.startswith("float32 [1000] blake3:") and change.before != change.after


def test_tensors_are_added_removed_reshaped_and_changed(model: Path, tmp_path: Path) -> None:
    changed = {"w": torch.arange(64.0) + 1, "b": torch.arange(5).int(), "n": torch.ones(1)}
    part = diff_models(model, make(tmp_path / "b", changed)).components["vae"]
    assert part.added == ["n"] and part.removed == ["e"]
    assert part.reshaped == [Reshaped("b", "I64 [5]", "I32 [5]")]
    assert part.changed == [Changed("w")]


def test_no_weight_is_read(model: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "b", TENSORS | {"w": torch.zeros(64)})
    before = diff_models(model, other)
    with Container.open(other) as container:
        at = container.data_offset("vae")
    data = bytearray(other.read_bytes())
    data[at] ^= 1
    other.write_bytes(data)
    assert diff_models(model, other) == before
    with pytest.raises(IntegrityError, match=r"digest\.tensor: w"):
        diff_values(model, other)


def test_no_torch_is_imported(model: Path) -> None:
    script = (
        "import sys; from distillgan._diff import diff\n"
        "diff(sys.argv[1], sys.argv[1]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_tie_is_a_difference(tmp_path: Path) -> None:
    w = torch.ones(4)
    tied, loose = make(tmp_path / "a", {"a": w, "b": w}), make(tmp_path / "b", {"a": w, "b": w.clone()})
    found = diff_models(tied, loose)
    assert found.components["vae"].same
    assert found.manifest == [Change("vae.tied.b", "a", msgspec.UNSET)]


def test_a_vocoder_on_one_side_is_said_as_such(model: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "b", vocoder=VOCODER)
    found = diff_models(model, other)
    assert (found.only_before, found.only_after, found.manifest) == ([], ["vocoder"], [])
    assert run(other, model) == (1, f"vocoder: only in {other}\n", "")


def test_vocoders_are_compared_as_models_are(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", vocoder=VOCODER), make(tmp_path / "b", vocoder=VOCODER)
    attach_vocoder(b, VOCODER | {"config": {"rates": [8, 4]}, "state_dict": {"v": torch.zeros(3)}})
    found = diff_models(a, b)
    assert found.manifest == [Change("vocoder.config.rates", [8, 8], [8, 4])]
    assert found.components["vocoder"].changed == [Changed("v")] and found.components["vae"].same


def test_a_plain_safetensors_file_may_stand_on_either_side(model: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(TENSORS, plain)
    assert (
        diff_models(model, plain).same and diff_models(plain, model).same and diff_models(plain, plain).same
    )
    safetensors.torch.save_file(TENSORS | {"w": torch.zeros(64)}, plain)
    assert diff_models(plain, model).components["vae"].changed == [Changed("w")]
    assert diff_values(model, plain).components["vae"].changed == [Changed("w", 63.0, 1.0)]


def test_an_extracted_vocoder_is_compared_with_the_vocoder(tmp_path: Path) -> None:
    model, plain = make(tmp_path, vocoder=VOCODER), tmp_path / "vocoder.safetensors"
    with Container.open(model) as container:
        plain.write_bytes(container.read_entry("vocoder.safetensors") or b"")
    found = diff_models(plain, model)
    assert found.components["vocoder"].same and found.only_after == ["vae"]


def test_tied_names_of_an_extracted_member_are_known(tmp_path: Path) -> None:
    w = torch.ones(4)
    model, plain = make(tmp_path, {"a": w, "b": w}), tmp_path / "vae.safetensors"
    with Container.open(model) as container:
        plain.write_bytes(container.read_entry("vae.safetensors") or b"")
    assert diff_models(model, plain).same


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"{", "safetensors.json"),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}}', "safetensors.extent"),
        (b'{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}', "safetensors.json"),
        (b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', "safetensors.extent"),
        (b'{"w":{"dtype":"?","shape":[2],"data_offsets":[8,0]}}', "safetensors.extent"),
        (
            b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
            "safetensors.extent",
        ),
        (b'{"__metadata__":3}', "safetensors.json"),
        (b'{"__metadata__":' + b"[" * 100_000, "safetensors.json"),
    ],
)
def test_a_spoiled_safetensors_file_is_an_error_with_a_name(
    model: Path, tmp_path: Path, header: bytes, code: str
) -> None:
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(FormatError) as raised:
        diff_models(model, plain)
    assert (raised.value.code, raised.value.path) == (code, str(plain))
    plain.write_bytes((1 << 62).to_bytes(8, "little") + header)
    with pytest.raises(FormatError, match=r"safetensors\.length"):
        diff_models(plain, model)


def test_an_unreadable_side_is_exit_code_2(model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.distillgan"
    bad.write_bytes(model.read_bytes()[:-9])
    for other in (bad, tmp_path / "none.distillgan", tmp_path):
        code, out, complaint = run(model, other)
        assert (code, out) == (2, "") and complaint.count("\n") == 1
    with pytest.raises(ModelNotFoundError):
        diff_models(model, tmp_path / "none.distillgan")


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int16, torch.uint64, torch.complex64,
     torch.float64],
)  # fmt: skip
def test_the_largest_change_is_measured(tmp_path: Path, dtype: torch.dtype) -> None:
    a = torch.tensor([1.0, 2.0, 4.0]).to(dtype)
    b = torch.tensor([1.0, 3.0, 8.0]).to(dtype)
    paths = make(tmp_path / "a", {"w": a}), make(tmp_path / "b", {"w": b})
    assert diff_values(*paths).components["vae"].changed == [Changed("w", 4.0, 0.5)]


def test_what_is_not_a_number_is_measured_as_none(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    a, b = torch.tensor([nan, inf, 1.0, 0.0]), torch.tensor([nan, inf, 2.0, -0.0])
    paths = make(tmp_path / "a", {"w": a}), make(tmp_path / "b", {"w": b})
    assert diff_values(*paths).components["vae"].changed == [Changed("w", 1.0, 0.5)]
    paths = make(tmp_path / "c", {"w": a}), make(tmp_path / "d", {"w": torch.tensor([1.0, inf, 1.0, 0.0])})
    assert diff_values(*paths).components["vae"].changed == [Changed("w", None, None)]


def test_json_has_the_documented_shape(model: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "b", TENSORS | {"w": torch.arange(64.0) * 2}, training_epochs=7)
    code, out, _ = run(model, other, "--json", "--values")
    assert code == 1 and out.isascii()
    nothing: dict[str, list[str]] = {"added": [], "removed": [], "reshaped": []}
    changed = {"name": "w", "largest_absolute": 63.0, "largest_relative": 0.5}
    assert json.loads(out) == {
        "same": False,
        "manifest": [{"path": "metadata.training_epochs", "after": 7}],
        "components": {"vae": nothing | {"changed": [changed]}},
        "only_before": [],
        "only_after": [],
    }


def test_text_from_a_file_is_shown_as_text(model: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "b", extra={"x": "\x1b[31m\u202e"})
    assert "\x1b" not in run(model, other)[1] and "\u202e" not in run(model, other)[1]


def test_values_are_shown_beside_their_tensors(model: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "b", TENSORS | {"w": torch.arange(64.0) * 2})
    assert run(model, other, "--values")[1] == (
        "vae: 1 changed\n  changed   w: largest change 63, relative 0.5\n"
    )


def test_an_edit_shows_what_it_edited_and_nothing_else(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.distillgan"
    other.write_bytes(model.read_bytes())
    edit_metadata(other, name="Snow")
    assert run(model, other)[1] == 'metadata.name: "Rain" -> "Snow"\n'
