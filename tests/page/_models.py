"""Models to look at: whole ones with analysis, vocoder and preview, and every way to be bad; no torch."""

from __future__ import annotations

import base64
import io
import math
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from _library import TRAINING, model_bytes

from distillgan.manifest import Manifest, ModelMetadata, Vae, Vocoder, encode_metadata, encode_object
from distillgan.preview import describe_preview
from distillgan.writer import BytesContent, Content, TensorContent, write_container

HOSTILE = '<img src=x onerror="window.hacked=1">${window.hacked=2}{{value}}`</textarea>'
SPECTROGRAM = {
    "sample_rate": 48000, "n_fft": 2048, "hop_length": 512, "n_mels": 128, "f_min": 0.0, "f_max": None,
    "power": 2.0,
}  # fmt: skip
HIFIGAN = {
    "upsample_rates": [8, 8, 4, 2], "num_mels": 128, "n_fft": 2048, "hop_size": 512, "sampling_rate": 48000,
    "fmin": 0, "fmax": 24000, "resblock_kernel_sizes": [3, 7, 11],
}  # fmt: skip
TRAINED = {"epochs": 200, "final_loss": 0.0342, "training_date": "2026-02-21T10:30:00+00:00"}


class Zeros:
    """A tensor of zeros to be saved."""

    dtype = "F32"

    def __init__(self, name: str, *shape: int):
        self.name = name
        self.shape = shape

    def data(self) -> memoryview:
        return memoryview(bytes(4 * math.prod(self.shape)))

    def examine(self, data: memoryview) -> None:
        """Nothing to see."""


def write_rich(
    path: Path,
    model_id: str,
    name: str,
    *,
    vocoder: str = "",
    mels: int = 128,
    preview: bool = False,
    analysis: bool = False,
    **known: Any,
) -> Path:
    """A model as training makes it: layers, perhaps a vocoder for `mels` mels, a preview, an analysis."""
    tensors = [Zeros(f"encoder.convs.{n}.weight", 32 << n, 16 << n, 3, 3) for n in range(4)]
    tensors += [Zeros(f"encoder.convs.{n}.bias", 32 << n) for n in range(4)]
    tensors += [Zeros("encoder.fc_mu.weight", 8, 12288), Zeros("encoder.fc_logvar.weight", 8, 12288)]
    contents: dict[str, Content] = {"vae.safetensors": TensorContent(tensors, {})}
    if vocoder:
        parts = [Zeros("conv_pre.weight_v", 128, mels, 7), Zeros("conv_post.weight_v", 1, 32, 7)]
        contents["vocoder.safetensors"] = TensorContent(parts, {})
    if preview:
        contents["preview.flac"] = BytesContent(sound())
    known = {"save_date": "2026-02-21T11:02:13+00:00", "training_date": "2026-02-21T10:30:00+00:00"} | known
    if analysis:
        known |= {"has_analysis": True, "n_active_components": 8}

    def describe() -> Manifest:
        more: dict[str, Any] = {}
        if vocoder:
            config = HIFIGAN | {"num_mels": mels}
            more["vocoder"] = Vocoder(
                type=vocoder,
                config_json=encode_object(config, "config"),
                training_metadata_json=encode_object(TRAINED, "training_metadata"),
                **contents["vocoder.safetensors"].describe(),  # type: ignore[attr-defined]
            )
        if preview:
            more["preview"] = describe_preview(sound())
        if analysis:
            more["latent_analysis_json"] = encode_object(ANALYSIS, "latent_analysis")
        return Manifest(
            format="distillgan_model",
            version=1,
            written_by="distillgan 0.1.0",
            metadata_json=encode_metadata(ModelMetadata(model_id=model_id, name=name, **known)),
            spectrogram_config_json=encode_object(SPECTROGRAM, "spectrogram_config"),
            training_config_json=encode_object(
                {"batch_size": 32, "learning_rate": 0.0005}, "training_config"
            ),
            vae=Vae(architecture="conv_vae", latent_dim=8, **contents["vae.safetensors"].describe()),  # type: ignore[attr-defined]
            **more,
        )

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as file:
        write_container(file, describe, contents)
        file.seek(0)
        path.write_bytes(file.read())
    return path


@cache
def sound() -> bytes:
    """Three seconds of drops falling on tin, as FLAC."""
    rate = 24000
    noise = np.random.default_rng(4)
    wave = 0.01 * noise.standard_normal(3 * rate)
    for begin in np.sort(noise.integers(0, len(wave) - 6000, 14)):
        time = np.arange(6000) / rate
        drop = np.sin(2 * np.pi * noise.uniform(500, 3000) * time) * np.exp(-time * 22)
        wave[begin : begin + 6000] += noise.uniform(0.15, 0.6) * drop
    flac = io.BytesIO()
    soundfile.write(flac, np.clip(wave, -1, 1), rate, "PCM_16", format="FLAC")
    return flac.getvalue()


def array(values: list[float]) -> dict[str, Any]:
    """The JSON form of a float32 array."""
    packed = struct.pack(f"<{len(values)}f", *values)
    return {"dtype": "float32", "shape": [len(values)], "base64": base64.b64encode(packed).decode()}


ANALYSIS: dict[str, Any] = {
    "explained_variance_ratio": array([0.31, 0.19, 0.14, 0.11, 0.09, 0.07, 0.05, 0.04]),
    "n_active_components": 8,
    "component_labels": [f"Axis {n}" for n in range(1, 9)],
    "suggested_labels": [
        "spectral_flatness", "rms_energy", "zero_crossing_rate", "Axis 4", "Axis 5", "Axis 6", "rms_energy",
        "Axis 8",
    ],
    "safe_min": array([-2.3, -2.2, -2.0, -1.9, -1.8, -1.7, -1.6, -1.5]),
    "safe_max": array([2.4, 1.9, 2.1, 1.9, 1.7, 1.7, 1.6, 1.5]),
    "warning_min": array([-2.9, -2.7, -2.4, -2.3, -2.3, -2.2, -2.1, -2.0]),
    "warning_max": array([3.3, 2.8, 2.3, 2.2, 2.3, 2.0, 2.3, 2.0]),
    "feature_correlations": {
        "spectral_centroid": [-0.85, 0.07, 0.51, -0.31, -0.10, 0.02, 0.18, -0.20],
        "rms_energy": [0.92, -0.74, -0.77, 0.46, 0.25, -0.09, 0.61, 0.12],
        "zero_crossing_rate": [-0.66, 0.21, 0.83, -0.12, 0.33, 0.05, -0.28, 0.40],
        "spectral_flatness": [-0.95, 0.35, 0.28, -0.44, 0.02, 0.14, -0.37, -0.05],
    },
}  # fmt: skip

_NAMES = (
    ("Rain on tin", "field recordings", ["rain", "metal"]),
    ("Harbour at night", "harbour", ["water", "ambient"]),
    ("Prepared piano", "piano, inside", ["tonal"]), ("Gravel steps", "foley", ["foley", "dry"]),
    ("Choir, far away", "chapel", ["voice", "ambient"]),
    ("Wind in wires", "field recordings", ["wind", "metal"]),
    ("Bowed cymbal", "metal plates", ["metal", "tonal"]), ("Kettle", "kitchen", ["water"]),
    ("Tram line 11", "city", ["city", "metal"]), ("Cello harmonics", "strings", ["tonal"]),
)  # fmt: skip


def write_gallery(folder: Path) -> None:
    """A library as a user has it: ten models, some with vocoder, preview and analysis."""
    for number, (name, dataset, tags) in enumerate(_NAMES):
        write_rich(
            folder / f"{number}.distillgan",
            f"{number}f9d0c9e-2f5b-4c0e-9a53-0c6f6b1f3b5{number}",
            name,
            vocoder=("hifigan_v2", "", "", "hifigan_v1", "", "istftnet")[number % 6],
            preview=number % 3 == 0,
            analysis=number % 2 == 0,
            description="Forty minutes of rain on a workshop roof, close and dry." if number == 0 else "",
            tags=tags,
            dataset_name=dataset,
            dataset_file_count=41 + 7 * number,
            dataset_total_duration_s=63.5 * (number + 1),
            training_epochs=180 + 20 * number,
            final_train_loss=4.5579 - number / 10,
            final_val_loss=4.3868 - number / 10,
            save_date=f"2026-02-{21 - number:02}T11:02:13+00:00",
        )


def write_library(folder: Path) -> None:
    """A gallery with everything that can be wrong in it."""
    write_gallery(folder)
    write_rich(
        folder / "hostile.distillgan", "hostile-1", HOSTILE,
        description=HOSTILE, tags=[HOSTILE], dataset_name=HOSTILE, vocoder=HOSTILE, preview=True,
    )  # fmt: skip
    write_rich(folder / "mismatch.distillgan", "mismatch-1", "Wrong vocoder", vocoder="hifigan_v1", mels=80)
    write_rich(folder / "twin.distillgan", "twin-1", "Twin")
    shutil.copy(folder / "twin.distillgan", folder / "twin_copy.distillgan")
    whole = (folder / "0.distillgan").read_bytes()
    (folder / "cut.distillgan").write_bytes(whole[:40000])


def write_many(folder: Path, count: int) -> None:
    """Small models in no time; every second one has a vocoder."""
    vocoder = {"type": "hifigan_v2", "training_metadata": TRAINING}
    for number in range(count):
        name = f"Model {number:04}"
        save_date = f"2026-02-{1 + number % 28:02}T11:02:13+00:00"
        body = model_bytes(
            f"id-{number}", name, vocoder=vocoder if number % 2 else None, save_date=save_date,
            dataset_name="field recordings", dataset_file_count=number, tags=["rain", f"tag{number % 20}"],
        )  # fmt: skip
        (folder / f"{number}.distillgan").write_bytes(body)
