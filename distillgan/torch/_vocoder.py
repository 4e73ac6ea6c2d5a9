"""Read a vocoder from a file, and tell the HiFi-GAN sizes apart by their shapes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CheckpointError
from ..pairing import CONV_PRE
from . import networks
from ._checkpoint import read_checkpoint

_SIZES = {(512, True): "hifigan_v1", (128, True): "hifigan_v2", (256, False): "hifigan_v3"}


def read_vocoder_state(
    path: str | os.PathLike[str],
    *,
    type: str | None = None,
    config: Mapping[str, Any] | None = None,
    training_metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A `vocoder_state` from a generator file: HiFi-GAN's own, a state dict, or safetensors.

    `type` defaults to what names and shapes tell. Raises CheckpointError, ModelNotFoundError.
    """
    state_dict = read_checkpoint(path, prefer="generator").state_dict
    shapes = {name: tuple(t.shape) for name, t in state_dict.items() if isinstance(t, torch.Tensor)}
    if networks.identify(shapes)[0] != networks.UNKNOWN:
        raise CheckpointError(f"{os.fspath(path)}: this is a model, not a vocoder; give a generator file.")
    state: dict[str, Any] = {"type": type or identify_vocoder(state_dict), "state_dict": state_dict}
    if config is not None:
        state["config"] = dict(config)
    if training_metadata:
        state["training_metadata"] = dict(training_metadata)
    return state


def identify_vocoder(state_dict: Mapping[str, Any]) -> str:
    """`hifigan_v1`, `_v2` or `_v3` by first channels and residual blocks, `hifigan`, or `unknown`."""
    names = {name.removeprefix("module.") for name in state_dict}
    first = next((t for n, t in state_dict.items() if n.removeprefix("module.") in CONV_PRE), None)
    if (
        not isinstance(first, torch.Tensor)
        or first.dim() != 3
        or not any(n.startswith("ups.") for n in names)
    ):
        return "unknown"
    paired = any(".convs1." in name for name in names)
    return _SIZES.get((first.shape[0], paired), "hifigan")
