"""Load a model: mapped and lazy on CPU, streamed to CUDA."""

from __future__ import annotations

import mmap as mmap_module
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from html import escape
from typing import Any

import torch
from torch import nn

from .._safetensors import TensorSpec
from .._text import printable
from ..container import (
    BufferSource,
    Container,
    summary,
)
from ..errors import DistillganError, FormatError, IntegrityError
from ..manifest import Manifest, ModelMetadata, check_open_objects
from ..verify import check_member
from . import networks
from ._cuda import CudaTensors
from ._lazy import LazyTensors
from ._plain import decode_arrays

Build = Callable[[Manifest, Mapping[str, TensorSpec]], nn.Module]
BuildSpectrogram = Callable[[dict[str, Any]], Any]

_CPU = torch.device("cpu")
_architectures: dict[str, tuple[Build, BuildSpectrogram | None]] = {}


def register_architecture(
    name: str, build: Build | None, *, spectrogram: BuildSpectrogram | None = None
) -> None:
    """Say how to build the network of an architecture; a built-in name may be replaced.

    `build(manifest, specs)` returns the network, on the meta device if it can; weights are assigned
    to it afterwards; None keeps the network that is there. `spectrogram(config)` makes
    `LoadedModel.spectrogram` of `spectrogram_config`.
    """
    if build is None:
        if name not in _architectures:
            raise DistillganError(f"Nothing is registered as {name!r} yet: give build as well.")
        build = _architectures[name][0]
    _architectures[name] = (build, spectrogram)


def load_model(
    model_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    mmap: bool = True,
    verify: bool = False,
) -> LoadedModel:
    """Open a model for use: nothing but its manifest and header is read until a tensor is asked for.

    On CPU tensors are views of one private mapping of the file; `mmap=False` reads the file at
    once instead, for network drives. With `verify` each tensor's digest is checked when it is first
    touched. Raises FormatError, ModelNotFoundError, and DistillganError for a device that this
    machine does not have.
    """
    target = _device(device)
    container = Container.open(model_path)
    try:
        container.header("vae")
        if target.type != "cuda":
            container.use_buffer(_buffer(container, mmap))
        if verify:
            _check_rest(container)
    except FormatError:
        container.close()
        raise
    return LoadedModel(container, target, verify)


class LoadedModel:
    """A model ready for use; its parts are made when they are asked for.

    `state_dict` and `vocoder_state["state_dict"]` are mappings that know every name, dtype and shape
    (`.specs`) and make a tensor when asked; they go into `load_state_dict(..., assign=True)`.
    """

    def __init__(self, container: Container, device: torch.device, verify: bool):
        """Use `load_model`."""
        self.container = container
        self.device = device
        self.manifest = container.manifest
        self._verify = verify

    @cached_property
    def state_dict(self) -> LazyTensors:
        """The VAE's tensors by name."""
        return self._tensors("vae")

    @cached_property
    def vocoder_state(self) -> dict[str, Any] | None:
        """`{"type", "state_dict", "config", "training_metadata"}`, or None without a vocoder."""
        vocoder = self.manifest.vocoder
        if vocoder is None:
            return None
        return {
            "type": vocoder.type,
            "state_dict": self._tensors("vocoder"),
            "config": vocoder.config,
            "training_metadata": vocoder.training_metadata,
        }

    @cached_property
    def model(self) -> nn.Module | None:
        """The network in eval mode, its weights those of `state_dict` without a copy.

        None when nobody registered the architecture. Raises DistillganError that names the keys
        which the network and the weights do not share.
        """
        name = self.manifest.vae.architecture
        if name not in _architectures:
            return None
        with torch.inference_mode(False):  # asked for under inference_mode, it may be trained later
            network = _architectures[name][0](self.manifest, self.state_dict.specs)
            self._assign(network)
        return network.eval()

    @cached_property
    def spectrogram(self) -> Any:
        """What the registered builder makes of `spectrogram_config`; None without one."""
        _, build = _architectures.get(self.manifest.vae.architecture, (None, None))
        if build is None or self.spectrogram_config is None:
            return None
        return build(self.spectrogram_config)

    @cached_property
    def analysis(self) -> dict[str, Any] | None:
        """The latent analysis, arrays in NumPy with the bits they had; None without one."""
        latent = self.manifest.latent_analysis
        return None if latent is None else dict(decode_arrays(latent))

    @property
    def metadata(self) -> ModelMetadata:
        """Name, tags, dataset, losses and the rest of what people know of the model."""
        return self.manifest.metadata

    @property
    def spectrogram_config(self) -> dict[str, Any] | None:
        """The mel spectrogram that the model was trained on, or None."""
        return self.manifest.spectrogram_config

    @property
    def training_config(self) -> dict[str, Any]:
        """How the model was trained."""
        return self.manifest.training_config

    def __repr__(self) -> str:
        return f"<LoadedModel {printable(summary(self.manifest))}; {self._bytes:,} bytes on {self.device}>"

    def _repr_html_(self) -> str:
        return f"<b>{escape(printable(summary(self.manifest)))}</b><br>{self._bytes:,} bytes on {self.device}"

    @property
    def _bytes(self) -> int:
        return sum(part.data_bytes for part in self.manifest.components.values())

    def _tensors(self, component: str) -> LazyTensors:
        kind = CudaTensors if self.device.type == "cuda" else LazyTensors
        return kind(self.container, component, self.device, self._verify)

    def _assign(self, network: nn.Module) -> None:
        path, name = self.container.path, self.manifest.vae.architecture
        try:
            missing, unknown = network.load_state_dict(self.state_dict, strict=False, assign=True)
        except RuntimeError as error:  # shapes differ
            raise DistillganError(f"{path}: the weights do not fit the network {name}: {error}") from None
        if missing or unknown:
            parts = (("does not know", unknown), ("needs also", missing))
            reasons = "; ".join(f"it {verb} {', '.join(keys)}" for verb, keys in parts if keys)
            raise DistillganError(f"{path}: the weights do not fit the network {name}: {reasons}")


def _device(device: str | torch.device) -> torch.device:
    if device == "cpu":
        return _CPU
    try:
        target = torch.device(device)
    except RuntimeError:
        raise DistillganError(f"{device!r} is not a device; try 'cpu', 'cuda' or 'cuda:0'.") from None
    if target.type == "meta":
        raise DistillganError("The meta device holds no weights; use Container.tensors() for shapes.")
    if target.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (target.index or 0) >= count:
            raise DistillganError(f"{device} is not there: PyTorch sees {count} CUDA devices. Use 'cpu'.")
        if target.index is None:
            target = torch.device("cuda", torch.cuda.current_device())  # the same one for every tensor
    try:
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:  # mps, xpu … on a machine without it
        raise DistillganError(f"{device} is not there: {_first_line(error)} Use 'cpu'.") from None
    return target


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") + "."


def _buffer(container: Container, mmap: bool) -> memoryview:
    """The whole file in page-aligned memory: mapped copy-on-write, or read."""
    source = container.source
    if isinstance(source, BufferSource):
        return source.data
    if mmap:
        return memoryview(mmap_module.mmap(source.fd, source.size, access=mmap_module.ACCESS_COPY))
    buffer = memoryview(mmap_module.mmap(-1, source.size))
    source.read_into(0, buffer)
    return buffer


def _check_rest(container: Container) -> None:
    """With `verify`, all that no tensor's digest covers is checked at once; it is small."""
    for error in check_open_objects(container.manifest):
        raise error.at(container.path)
    for entry in container.entries:
        if entry.name.endswith(".safetensors"):
            continue
        for problem in check_member(container, entry.name, lambda _: None):
            raise IntegrityError(problem.code, problem.message, where=problem.where).at(container.path)


def _build_conv_vae(manifest: Manifest, specs: Mapping[str, TensorSpec]) -> nn.Module:
    latent, flat = specs["encoder.fc_mu.weight"].shape
    grid, mel_shape = networks.grid_of(manifest.spectrogram_config, flat)
    with torch.device("meta"):
        return networks.ConvVAE(latent, grid, mel_shape)


register_architecture(networks.CONV_VAE, _build_conv_vae)
