"""A preview is FLAC as it comes, or any other sound converted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import blake3
import numpy as np
import pytest
import soundfile
import torch

from distillgan import Container, DistillganError, FormatError, ModelMetadata, ModelNotFoundError, verify
from distillgan.edit import edit_metadata
from distillgan.preview import read_preview
from distillgan.torch import save_model


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).integers(-32768, 32767, (4800, 2), dtype=np.int16)


@pytest.fixture
def flac(tmp_path: Path, samples: np.ndarray) -> Path:
    path = tmp_path / "sound.flac"
    soundfile.write(path, samples, 48000)
    return path


def test_flac_is_taken_as_it_is(flac: Path) -> None:
    preview, data = read_preview(flac)
    assert data == flac.read_bytes()
    assert (preview.bytes, preview.sample_rate, preview.duration_s) == (len(data), 48000, 0.1)
    assert preview.digest == "blake3:" + blake3.blake3(data).hexdigest()


def test_flac_needs_no_soundfile_and_other_sounds_say_how_to_get_it(
    flac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert read_preview(flac)[0].sample_rate == 48000
    wav = tmp_path / "sound.wav"
    wav.write_bytes(b"RIFF")
    with pytest.raises(DistillganError, match=r"pip install 'distillgan\[audio\]'"):
        read_preview(wav)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_another_sound_is_converted_sample_for_sample(
    tmp_path: Path, samples: np.ndarray, subtype: str
) -> None:
    soundfile.write(tmp_path / "sound.wav", samples / 32768, 44100, subtype)
    preview, data = read_preview(tmp_path / "sound.wav")
    (tmp_path / "made.flac").write_bytes(data)
    found, rate = soundfile.read(tmp_path / "made.flac", dtype="int16")
    assert (rate, preview.sample_rate, soundfile.info(tmp_path / "made.flac").subtype) == (
        44100,
        44100,
        "PCM_16",
    )
    assert np.array_equal(found, samples)


def test_mono_stays_mono_and_too_loud_is_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", np.array([2.0, -2.0] * 500), 8000, "FLOAT")
    (tmp_path / "made.flac").write_bytes(read_preview(tmp_path / "loud.wav")[1])
    found, _ = soundfile.read(tmp_path / "made.flac", dtype="int16")
    assert found.shape == (1000,) and (found.max(), found.min()) == (32767, -32768)


def test_a_large_flac_is_refused(flac: Path) -> None:
    flac.write_bytes(flac.read_bytes().ljust(4 * 1024 * 1024 + 1, b"\0"))
    assert code_of(flac) == "preview.size"


def test_a_long_sound_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(20_000_000, np.int16), 48000)
    assert code_of(tmp_path / "long.wav") == "preview.size"


@pytest.mark.parametrize("size", [4, 8, 41])
def test_a_flac_that_was_cut_short_is_refused(flac: Path, size: int) -> None:
    os.truncate(flac, size)
    assert code_of(flac) == "preview.format"


@pytest.mark.parametrize("at", [4, 7, 18, 21])
def test_a_flac_without_rate_length_or_first_block_is_refused(flac: Path, at: int) -> None:
    data = bytearray(flac.read_bytes())
    data[at : at + 8] = bytes(8) if at >= 18 else b"\7" * 8
    flac.write_bytes(data)
    assert code_of(flac) == "preview.format"


@pytest.mark.parametrize("data", [b"", b"no sound", b"RIFF\0\0\0\0WAVE", b"OggS" + bytes(40)])
def test_what_is_no_sound_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(data)
    assert code_of(tmp_path / "x.wav") == "preview.format"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    assert code_of(tmp_path) == "file.type"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert code_of(tmp_path / "pipe") == "file.type"
    with pytest.raises(ModelNotFoundError, match="Sound file not found"):
        read_preview(tmp_path / "none.wav")


def test_an_edit_gives_a_model_a_preview_and_another_one_replaces_it(
    flac: Path, tmp_path: Path, samples: np.ndarray
) -> None:
    model = save_model({"w": torch.ones(3)}, None, None, ModelMetadata(name="Rain"), tmp_path)
    edit_metadata(model, preview=flac)
    with Container.open(model) as container:
        assert container.read_entry("preview.flac") == flac.read_bytes()
        assert container.manifest.preview == read_preview(flac)[0]
    soundfile.write(tmp_path / "other.wav", samples[:100], 8000)
    edit_metadata(model, preview=tmp_path / "other.wav", name="Snow")
    assert verify(model) == []
    with Container.open(model) as container:
        assert container.manifest.preview is not None and container.manifest.preview.sample_rate == 8000
        assert container.manifest.metadata.name == "Snow"


def code_of(path: Path) -> str:
    with pytest.raises(FormatError) as raised:
        read_preview(path)
    assert raised.value.path == os.fspath(path)
    return raised.value.code
