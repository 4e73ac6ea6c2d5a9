"""The models that are measured, each in our format and in that of every peer, with the same tensors."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
REAL = REPOSITORY / "fixtures" / "real"
CHECKPOINT = REAL / "distill_checkpoint_epoch0006.pt"
GENERATOR = REAL / "hifigan_g_00000006"
GENERATOR_CONFIG = REAL / "hifigan_config.json"
MODELS = ("small", "big", "wide")

StateDict = dict[str, torch.Tensor]

logging.getLogger("distillgan").setLevel(logging.ERROR)  # random weights do not pair; that is fine here


@dataclass
class Pair:
    """A VAE and a vocoder with all that `save_model` takes."""

    vae: StateDict
    vocoder: StateDict
    spectrogram_config: dict[str, Any]
    training_config: dict[str, Any]
    analysis: Any
    vocoder_config: dict[str, Any]

    @property
    def vocoder_state(self) -> dict[str, Any]:
        """The vocoder as `save_model` takes it."""
        training = {"epochs": 200, "final_loss": 0.0342, "training_date": "2026-02-21T10:30:00+00:00"}
        return {
            "type": "hifigan",
            "state_dict": self.vocoder,
            "config": self.vocoder_config,
            "training_metadata": training,
        }

    def save(self, folder: str | os.PathLike[str], name: str = "Rain on tin") -> Path:
        """Save in our format."""
        from distillgan import ModelMetadata
        from distillgan.torch import save_model

        metadata = ModelMetadata(
            name=name, description="rain, gutters", tags=["ambient", "rain"], dataset_name="field",
            dataset_file_count=41, dataset_total_duration_s=63.5, training_epochs=7,
            final_train_loss=4.5579, final_val_loss=4.3868, training_date="2026-02-21T10:30:00+00:00",
        )  # fmt: skip
        return save_model(
            self.vae,
            self.spectrogram_config,
            self.training_config,
            metadata,
            folder,
            self.analysis,
            self.vocoder_state,
        )


@dataclass
class Saved:
    """A pair and the files that hold it."""

    pair: Pair
    ours: str
    vae: str
    vocoder: str
    torch: str
    dduf: str
    tdz: str

    @cached_property
    def first_name(self) -> str:
        """The name of one tensor of middling size."""
        by_size = sorted(self.pair.vae, key=lambda name: self.pair.vae[name].nbytes)
        return by_size[len(by_size) // 2]

    @property
    def files(self) -> list[str]:
        """Every file."""
        return [self.ours, self.vae, self.vocoder, self.torch, self.dduf, self.tdz]


class Data:
    """Models by name, made when they are asked for, in a folder that the caller removes."""

    def __init__(self, folder: Path, *, quick: bool = False, full: bool = False):
        self.folder = folder
        self.quick = quick
        self.full = full
        self._saved: dict[str, Saved] = {}

    def model(self, name: str) -> Saved:
        """The model of that name with a file in every format."""
        if name not in self._saved:
            folder = self.folder / name
            folder.mkdir()
            self._saved[name] = save_everywhere(PAIRS[name](), folder)
        return self._saved[name]

    def fresh(self, name: str) -> Path:
        """A new empty folder."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def small() -> Pair:
    """The real pair: a trained ConvVAE and a HiFi-GAN V2 generator."""
    from distillgan.torch import read_model, read_vocoder_state

    config = json.loads(GENERATOR_CONFIG.read_text())
    model = read_model(CHECKPOINT)
    vocoder = read_vocoder_state(GENERATOR, config=config)["state_dict"]
    return Pair(
        {name: tensor.clone() for name, tensor in model.state_dict.items()},
        {name: tensor.clone() for name, tensor in vocoder.items()},
        dict(model.spectrogram_config or {}),
        dict(model.training_config),
        model.analysis,
        config,
    )


def big() -> Pair:
    """A VAE of 34 tensors and 11 MB; a vocoder with the widths of HiFi-GAN V1, 56 MB."""
    real = small()
    vae: StateDict = {}
    for layer in range(17):
        vae[f"layers.{layer}.weight"] = torch.randn(400, 400 + layer % 2)
        vae[f"layers.{layer}.bias"] = torch.randn(400)
    vocoder = {name: torch.randn(_widened(tensor.shape)) for name, tensor in real.vocoder.items()}
    return Pair(vae, vocoder, real.spectrogram_config, {}, None, real.vocoder_config)


def wide() -> Pair:
    """5,000 small tensors: 2,500 on each side, 1 KB each."""
    real = small()
    vae = {f"vae.{number}.weight": torch.randn(16, 16) for number in range(2500)}
    vocoder = {f"vocoder.{number}.weight": torch.randn(16, 16) for number in range(2500)}
    return Pair(vae, vocoder, real.spectrogram_config, {}, None, real.vocoder_config)


PAIRS: dict[str, Callable[[], Pair]] = {"small": small, "big": big, "wide": wide}


def save_everywhere(pair: Pair, folder: Path) -> Saved:
    """Write a pair in every format; the peers hold the same manifest as we do."""
    ours = pair.save(folder)
    manifest = read_manifest_text(ours)
    saved = Saved(pair, str(ours), *(str(folder / name) for name in _PEER_FILES))
    save_safetensors(pair, saved.vae, saved.vocoder, manifest)
    save_torch(pair, saved.torch, manifest)
    save_dduf(pair, saved.dduf, manifest)
    save_tdz(pair, saved.tdz)
    return saved


_PEER_FILES = ("vae.safetensors", "vocoder.safetensors", "model.pt", "model.dduf", "model.tdz")


def read_manifest_text(path: str | os.PathLike[str]) -> str:
    """The manifest of a container as text."""
    from distillgan import Container

    with Container.open(path) as container:
        return (container.read_entry("manifest.json") or b"").decode()


def save_safetensors(pair: Pair, vae: str, vocoder: str, manifest: str) -> None:
    """Two safetensors files, the manifest as metadata of the first."""
    from safetensors.torch import save_file

    save_file(pair.vae, vae, metadata={"format": "pt", "manifest": manifest})
    save_file(pair.vocoder, vocoder, metadata={"format": "pt"})


def save_torch(pair: Pair, path: str, manifest: str) -> None:
    """One file of `torch.save`."""
    torch.save({"manifest": json.loads(manifest), "vae": pair.vae, "vocoder": pair.vocoder}, path)


def save_dduf(pair: Pair, path: str, manifest: str) -> None:
    """One DDUF file; the manifest is its index, which names the same two components."""
    from huggingface_hub import export_entries_as_dduf
    from safetensors.torch import save

    def entries() -> Any:
        yield "model_index.json", manifest.encode()
        yield "vae/config.json", b"{}"
        yield "vae/diffusion_pytorch_model.safetensors", save(pair.vae)
        yield "vocoder/config.json", b"{}"
        yield "vocoder/model.safetensors", save(pair.vocoder)

    export_entries_as_dduf(path, entries())


def save_tdz(pair: Pair, path: str) -> None:
    """One tensordict archive."""
    from tensordict import TensorDict

    TensorDict({"vae": TensorDict(pair.vae), "vocoder": TensorDict(pair.vocoder)}).save(path)


def zero_pair(tensors: int, size: int) -> Pair:
    """A VAE of `tensors` tensors, `size` bytes in all, on pages that were never written (sparse input)."""
    items = max(1, size // tensors // 4)
    slab = torch.empty(tensors * items)  # untouched: every page is the system's page of zeros
    vae = {f"layers.{number:05}": slab[number * items : (number + 1) * items] for number in range(tensors)}
    return Pair(vae, {"conv_pre.weight": torch.zeros(16)}, {}, {}, None, {})


def drop_cache(path: str) -> None:
    """Let the system forget a file's pages, once they are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _widened(shape: torch.Size) -> list[int]:
    """A shape of HiFi-GAN V2 with four times the channels, as in V1."""
    fixed = {1, 2, 3, 4, 5, 7, 8, 11, 16, 80, 128} if len(shape) == 3 else set()
    channels = [size * 4 for size in shape[:2]]
    kernel = list(shape[2:])
    if len(shape) == 3 and shape[1] == 1:  # weight_g
        channels[1] = 1
    if len(shape) == 3 and shape[0] == 1 and fixed:  # conv_post
        channels[0] = 1
    return [*channels, *kernel]
