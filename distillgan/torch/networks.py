"""ConvVAE, the network that Distill trains: recognised by names and shapes, rebuilt for use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONV_VAE = "conv_vae"
UNKNOWN = "unknown"
_CHANNELS = (1, 32, 64, 128, 256)
_STRIDE = 16  # four halvings
_LOGVAR_BOUND = 20.0
_NORM = ("weight", "bias", "running_mean", "running_var")


class Encoder(nn.Module):
    """Mel spectrograms to the mean and log-variance of their latent vectors."""

    def __init__(self, latent_dim: int, flat: int, dropout: float = 0.0):
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside in itertools.pairwise(_CHANNELS):
            layers += [
                nn.Conv2d(inside, outside, 3, stride=2, padding=1),
                nn.BatchNorm2d(outside),
                nn.ReLU(),
                nn.Dropout2d(dropout),
            ]
        self.convs = nn.Sequential(*layers)
        self.fc_mu = nn.Linear(flat, latent_dim)
        self.fc_logvar = nn.Linear(flat, latent_dim)

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mel [B, 1, n_mels, frames] to mean and log-variance, each [B, latent_dim]."""
        height, width = mel.shape[-2:]
        padded = F.pad(mel, (0, -width % _STRIDE, 0, -height % _STRIDE))
        flat = self.convs(padded).flatten(1)
        return self.fc_mu(flat), self.fc_logvar(flat).clamp(-_LOGVAR_BOUND, _LOGVAR_BOUND)


class Decoder(nn.Module):
    """Latent vectors back to mel spectrograms."""

    def __init__(self, latent_dim: int, grid: tuple[int, int], dropout: float = 0.0):
        super().__init__()
        self.grid = grid
        self.fc = nn.Linear(latent_dim, _CHANNELS[-1] * math.prod(grid))
        layers: list[nn.Module] = []
        reverse = _CHANNELS[::-1]
        for inside, outside in itertools.pairwise(reverse):
            layers.append(nn.ConvTranspose2d(inside, outside, 3, stride=2, padding=1, output_padding=1))
            if outside > 1:
                layers += [nn.BatchNorm2d(outside), nn.ReLU(), nn.Dropout2d(dropout)]
        self.deconvs = nn.Sequential(*layers, nn.Softplus())

    def forward(self, z: Tensor, target_shape: tuple[int, int] | None = None) -> Tensor:
        """Latent [B, latent_dim] to mel [B, 1, n_mels, frames], cropped to `target_shape`."""
        mel: Tensor = self.deconvs(self.fc(z).view(-1, _CHANNELS[-1], *self.grid))
        return mel if target_shape is None else mel[..., : target_shape[-2], : target_shape[-1]]


class ConvVAE(nn.Module):
    """The convolutional VAE over log-mel spectrograms of one second.

    `grid` is the encoder's output, n_mels/16 × frames/16 rounded up; `mel_shape` (n_mels, frames)
    is what `decode` crops to unless told otherwise.
    """

    def __init__(
        self,
        latent_dim: int,
        grid: tuple[int, int] = (8, 6),
        mel_shape: tuple[int, int] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.mel_shape = mel_shape
        self.encoder = Encoder(latent_dim, _CHANNELS[-1] * math.prod(grid), dropout)
        self.decoder = Decoder(latent_dim, grid, dropout)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Mel [B, 1, n_mels, frames] to mean and log-variance, each [B, latent_dim]."""
        encoded: tuple[Tensor, Tensor] = self.encoder(mel)
        return encoded

    def reparameterize(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """A draw from the latent distribution; the mean itself in eval mode."""
        if not self.training:
            return mean
        return mean + torch.randn_like(mean) * (0.5 * logvar).exp()

    def decode(self, z: Tensor, target_shape: tuple[int, int] | None = None) -> Tensor:
        """Latent [B, latent_dim] to mel [B, 1, n_mels, frames]; `target_shape` is (n_mels, frames)."""
        mel: Tensor = self.decoder(z, target_shape or self.mel_shape)
        return mel

    def sample(self, n: int = 1, device: torch.device | str | None = None) -> Tensor:
        """Mel spectrograms [n, 1, n_mels, frames] of latent vectors drawn from the prior."""
        weight = self.decoder.fc.weight
        z = torch.randn(n, self.latent_dim, device=weight.device, dtype=weight.dtype)
        return self.decode(z if device is None else z.to(device))

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mel to its reconstruction of the same shape, mean and log-variance."""
        mean, logvar = self.encode(mel)
        height, width = mel.shape[-2:]
        return self.decode(self.reparameterize(mean, logvar), (height, width)), mean, logvar


def identify(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int | None]:
    """The architecture and latent size that names and shapes tell: `conv_vae`, or `unknown`."""
    latent, flat = (*shapes.get("encoder.fc_mu.weight", ()), 0, 0)[:2]
    if latent and flat and flat % _CHANNELS[-1] == 0 and shapes == _conv_vae_shapes(latent, flat):
        return CONV_VAE, latent
    return UNKNOWN, None


def grid_of(config: Mapping[str, Any] | None, flat: int) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The encoder's output grid and the mel shape, from the spectrogram's configuration.

    Where that does not explain `flat` (the weights' input size), a grid of one row: every shape of
    the same product decodes, only the picture's proportions are not known.
    """
    cells = flat // _CHANNELS[-1]
    rate, hop, n_mels = ((config or {}).get(key) for key in ("sample_rate", "hop_length", "n_mels"))
    if all(type(value) is int and value > 0 for value in (rate, hop, n_mels)):
        frames = rate // hop + 1  # type: ignore[operator]
        grid = (-(-n_mels // _STRIDE), -(-frames // _STRIDE))  # type: ignore[operator]
        if math.prod(grid) == cells:
            return grid, (n_mels, frames)  # type: ignore[return-value]
    return (1, cells), None


def _conv_vae_shapes(latent: int, flat: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (inside, outside) in enumerate(itertools.pairwise(_CHANNELS)):
        shapes |= _layer(f"encoder.convs.{4 * i}", (outside, inside, 3, 3), outside)
        shapes |= _norm(f"encoder.convs.{4 * i + 1}", outside)
    for name in ("encoder.fc_mu", "encoder.fc_logvar"):
        shapes |= _layer(name, (latent, flat), latent)
    shapes |= _layer("decoder.fc", (flat, latent), flat)
    reverse = _CHANNELS[::-1]
    for i, (inside, outside) in enumerate(itertools.pairwise(reverse)):
        shapes |= _layer(f"decoder.deconvs.{4 * i}", (inside, outside, 3, 3), outside)
        if outside > 1:
            shapes |= _norm(f"decoder.deconvs.{4 * i + 1}", outside)
    return shapes


def _layer(name: str, weight: tuple[int, ...], bias: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": (bias,)}


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.{key}": (channels,) for key in _NORM}
    return shapes | {f"{name}.num_batches_tracked": ()}
