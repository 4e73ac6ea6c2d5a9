"""A vocoder is attached in one step; the model's own bytes are copied as they are."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from distillgan_cli.main import cli

from distillgan import (
    Container,
    DistillganError,
    FormatError,
    ModelMetadata,
    PairingError,
    _safetensors,
    read_manifest,
    verify,
)
from distillgan.torch import attach_vocoder, load_model, save_model

CONFIG = {"sampling_rate": 48000, "hop_size": 512, "num_mels": 128, "upsample_rates": [8, 8, 4, 2]}


def vocoder(seed: int = 0, **changes: Any) -> dict[str, Any]:
    weight = torch.randn(4, 128, 7, generator=torch.Generator().manual_seed(seed))
    state = {"type": "hifigan_v2", "state_dict": {"conv_pre.weight": weight}, "config": CONFIG}
    return state | changes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    spectrogram = {"sample_rate": 48000, "hop_length": 512, "n_mels": 128, "f_max": None}
    return save_model({"w": torch.arange(640.0)}, spectrogram, {}, ModelMetadata(name="Rain"), tmp_path)


def member(path: Path, name: str) -> bytes:
    with Container.open(path) as container:
        return container.read_entry(name) or b""


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_an_attached_vocoder_comes_back_and_the_rest_is_as_it_was(model: Path) -> None:
    before, old = member(model, "vae.safetensors"), read_manifest(model)
    state = vocoder(training_metadata={"epochs": 200, "final_loss": 0.5})
    attach_vocoder(model, state)
    assert verify(model) == []
    assert member(model, "vae.safetensors") == before
    new = read_manifest(model)
    assert (new.metadata, new.vae) == (old.metadata, old.vae)
    loaded = load_model(model).vocoder_state
    assert loaded is not None
    assert (loaded["type"], loaded["config"]) == ("hifigan_v2", CONFIG)
    assert loaded["training_metadata"] == {"epochs": 200, "final_loss": 0.5}
    assert torch.equal(loaded["state_dict"]["conv_pre.weight"], state["state_dict"]["conv_pre.weight"])


def test_attaching_gives_the_file_that_saving_with_the_vocoder_gives(model: Path, tmp_path: Path) -> None:
    manifest = read_manifest(model)
    whole = save_model(
        {"w": torch.arange(640.0)},
        manifest.spectrogram_config,
        {},
        manifest.metadata,
        tmp_path / "whole",
        vocoder_state=vocoder(),
    )
    attach_vocoder(model, vocoder())
    assert model.read_bytes() == whole.read_bytes()


def test_another_vocoder_replaces_the_first(model: Path, tmp_path: Path) -> None:
    attach_vocoder(model, vocoder(1, type="other"))
    attach_vocoder(model, vocoder(2))
    again = model.read_bytes()
    attach_vocoder(model, vocoder(1))
    attach_vocoder(model, vocoder(2))
    assert read_manifest(model).vocoder.type == "hifigan_v2"  # type: ignore[union-attr]
    assert model.read_bytes() == again


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace a file that is mapped")
def test_a_loaded_vocoder_can_be_attached_to_the_file_that_it_is_mapped_from(model: Path) -> None:
    attach_vocoder(model, vocoder())
    before = model.read_bytes()
    state = load_model(model).vocoder_state
    assert state is not None
    attach_vocoder(model, state)
    assert model.read_bytes() == before


def test_the_models_own_bytes_are_not_hashed_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    digest = _safetensors.digest
    monkeypatch.setattr(_safetensors, "digest", lambda data: hashed.append(len(data)) or digest(data))
    attach_vocoder(model, vocoder())
    assert 4 * 128 * 7 * 4 in hashed and 4 * 640 not in hashed


def test_a_mismatch_stops_with_every_reason_and_the_file_as_it_was(model: Path) -> None:
    before = model.read_bytes()
    wrong = vocoder(config=CONFIG | {"sampling_rate": 22050, "hop_size": 256})
    with pytest.raises(PairingError) as raised:
        attach_vocoder(model, wrong)
    assert "22050" in str(raised.value) and "256" in str(raised.value)
    assert "--allow-mismatch" in str(raised.value)
    assert model.read_bytes() == before


def test_an_allowed_mismatch_is_stored_and_logged(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    attach_vocoder(model, vocoder(config=CONFIG | {"sampling_rate": 22050}), allow_mismatch=True)
    assert verify(model) == []
    assert "does not match" in caplog.text


def test_values_that_are_not_finite_are_stored_and_logged(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = vocoder(training_metadata={"final_loss": float("inf")})
    state["state_dict"]["bias"] = torch.tensor([float("nan")])
    with caplog.at_level(logging.WARNING):
        attach_vocoder(model, state)
    assert verify(model) == []
    assert "NaN or infinite values in vocoder.safetensors: bias" in caplog.text
    assert read_manifest(model).vocoder.training_metadata == {"final_loss": None}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "state", [{}, {"type": "x"}, {"type": "x", "state_dict": {"w": 1}}, {"type": "a\nb", "state_dict": {}}]
)
def test_a_vocoder_that_cannot_be_stored_is_refused(model: Path, state: dict[str, Any]) -> None:
    before = model.read_bytes()
    with pytest.raises(DistillganError, match=r"vocoder|not a tensor"):
        attach_vocoder(model, state)
    assert model.read_bytes() == before


def test_a_damaged_model_is_refused(model: Path) -> None:
    data = model.read_bytes()
    model.write_bytes(data[:-30])
    with pytest.raises(FormatError, match=r"zip\.truncated"):
        attach_vocoder(model, vocoder())
    assert model.read_bytes() == data[:-30]


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    path = tmp_path / "hifigan" / "g_00000006"
    path.parent.mkdir()
    torch.save({"generator": vocoder()["state_dict"]}, path)
    return path


def test_the_command_attaches_a_generator_file_with_its_configuration(model: Path, generator: Path) -> None:
    config = generator.with_name("mine.json")
    config.write_text(json.dumps(CONFIG))
    code, out, complaint = run(
        "attach", model, generator, "--vocoder-config", config, "--vocoder-type", "hifigan_v2",
        "--vocoder-epochs", 200, "--vocoder-loss", 0.25, "--vocoder-date", "2026-02-21",
    )  # fmt: skip
    assert (code, out, complaint) == (0, f"{model}: vocoder hifigan_v2\n", "")
    found = read_manifest(model).vocoder
    assert found is not None and found.config == CONFIG
    assert found.training_metadata == {"epochs": 200, "final_loss": 0.25, "training_date": "2026-02-21"}


def test_the_command_refuses_a_mismatch_with_exit_code_1(model: Path, generator: Path) -> None:
    before = model.read_bytes()
    wrong = json.dumps(CONFIG | {"sampling_rate": 22050})
    code, out, complaint = run("attach", model, generator, "--vocoder-config", wrong)
    assert (code, out) == (1, "")
    assert "22050" in complaint and complaint.count("\n") == 1
    assert model.read_bytes() == before
    assert run("attach", model, generator, "--vocoder-config", wrong, "--allow-mismatch")[0] == 0


@pytest.mark.parametrize("missing", ["model", "vocoder"])
def test_a_file_that_is_not_there_is_misuse(model: Path, generator: Path, missing: str) -> None:
    (model if missing == "model" else generator).unlink()
    code, _, complaint = run("attach", model, generator)
    assert code == 2 and "not found" in complaint
