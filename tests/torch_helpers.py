"""Small models and bit comparison, for the tests that need torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from helpers import SPECTROGRAM

from distillgan import ModelMetadata
from distillgan.torch import ConvVAE, load_model, save_model

STATE_KEYS = (
    "model_state_dict", "state_dict", "model", "model_state", "generator", "generator_state_dict",
)  # fmt: skip


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors have one dtype, shape and bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in row-major order, as its values read."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(plain.view(torch.uint8).numpy()) if plain.numel() else b""


def small_state() -> dict[str, torch.Tensor]:
    """Weights of no known network: one tensor of a multiple of 64 bytes and one that is not."""
    return {"conv.weight": torch.arange(16.0).view(4, 4), "conv.bias": torch.tensor([1.0, -2.0, 0.5])}


def conv_vae(latent: int = 3, grid: tuple[int, int] = (1, 8), seed: int = 0) -> ConvVAE:
    """A ConvVAE with random weights and statistics; the grid is that of `SPECTROGRAM`."""
    torch.manual_seed(seed)
    network = ConvVAE(latent, grid, (4, 126))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def hifigan_state(mels: int = 4) -> dict[str, torch.Tensor]:
    """The few names by which a HiFi-GAN generator is known."""
    return {
        "conv_pre.weight_v": torch.ones(8, mels, 7),
        "conv_pre.weight_g": torch.ones(8, 1, 1),
        "ups.0.weight_v": torch.ones(8, 4, 16),
    }


def vocoder_state(**changes: Any) -> dict[str, Any]:
    """A vocoder that matches `SPECTROGRAM`."""
    config = {"upsample_rates": [8, 8], "hop_size": 64, "num_mels": 4, "sampling_rate": 8000}
    state = {"type": "hifigan_v2", "state_dict": hifigan_state(), "config": config}
    return state | {"training_metadata": {"epochs": 200, "final_loss": 0.0342}} | changes


def save(folder: Path, state: Any = None, *, name: str = "model", **options: Any) -> Path:
    """Save a model into a folder, with a fixed id and date."""
    metadata = options.pop("metadata", None) or fixed_metadata(name)
    return save_model(
        small_state() if state is None else state,
        options.pop("spectrogram_config", SPECTROGRAM),
        options.pop("training_config", {}),
        metadata,
        folder,
        **options,
    )


def fixed_metadata(name: str = "model", **fields: Any) -> ModelMetadata:
    """Metadata that does not depend on the time."""
    return ModelMetadata(
        model_id="00000000-0000-4000-8000-000000000001",
        name=name,
        save_date="2026-02-21T11:02:13+00:00",
        **fields,
    )


def round_trip(folder: Path, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What a state dict is after saving and loading, every digest checked."""
    return dict(load_model(save(folder, state), verify=True).state_dict)
