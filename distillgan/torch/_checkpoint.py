"""Read what people have: training checkpoints, state dicts, generator files, safetensors.

Pickles are read with `weights_only=True` and an explicit allow-list. Classes of the application
are read as inert values; nothing of them is imported.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors
import torch

from .. import _archive, _foreign
from .._text import printable
from ..container import is_container, open_file
from ..errors import CheckpointError, FormatError
from ._plain import Inert

logger = logging.getLogger("distillgan")

_CHUNK = 1024 * 1024
_STATE_KEYS = (
    "model_state_dict", "state_dict", "model", "model_state", "generator", "generator_state_dict",
)  # fmt: skip
_APP_MODULE = "distill."
_GAN_KEYS = frozenset({"mpd", "msd", "mrd", "optim_g", "optim_d"})
_LOAD_ERRORS = (  # what torch.load is seen to raise on damaged and hostile files
    pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError,
    AttributeError, AssertionError, ImportError, OSError, MemoryError, OverflowError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip


@dataclass
class Checkpoint:
    """What a file gives to a container; losses that nobody knows are None, NaN stays NaN."""

    state_dict: Mapping[str, Any]
    spectrogram_config: Mapping[str, Any] | None = None
    training_config: Mapping[str, Any] = field(default_factory=dict)
    latent_analysis: Mapping[str, Any] | None = None
    epochs: int | None = None
    train_loss: float | None = None
    val_loss: float | None = None


def read_checkpoint(path: str | os.PathLike[str], *, prefer: str = _STATE_KEYS[0]) -> Checkpoint:
    """Read a training checkpoint, a state dict or a safetensors file; weights stay on disk if they can.

    `prefer` is the key to look under first. Raises CheckpointError, LegacyFormatError for a v1
    model, ModelNotFoundError.
    """
    loaded = _load(path)
    _warn_of_damage(path)
    state_dict, top = _find_state_dict(loaded, path, (prefer, *_STATE_KEYS))
    epoch = _get(top, "epoch")
    return Checkpoint(
        state_dict,
        _get(top, "spectrogram_config"),
        _get(top, "training_config") or {},
        _get(top, "latent_analysis"),
        epoch + 1 if type(epoch) is int and epoch >= 0 else None,
        _loss(top, "train_loss"),
        _loss(top, "val_loss"),
    )


def _warn_of_damage(path: str | os.PathLike[str]) -> None:
    """Log what in a torch file does not fit its CRC-32, which torch.load does not check.

    It is no error, since torch.serialization.set_crc32_options can leave the CRCs out.
    """
    if zipfile.is_zipfile(path):
        found = _find_damage(path)
        if found is not None:
            text = f"{os.fspath(path)}: {found} does not fit its CRC-32: is it damaged?"
            logger.warning("%s", printable(text))


def _find_damage(path: str | os.PathLike[str]) -> str | None:
    """The first member of a ZIP that does not fit its CRC-32; members that overlap are not read."""
    name = "the ZIP directory"
    try:
        with zipfile.ZipFile(path) as archive:
            stored = [info for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED]
            if sum(info.compress_size for info in stored) > os.path.getsize(path):
                return name  # as a hostile directory has it, to have the same bytes read again and again
            for info in stored:
                name = info.filename
                with archive.open(info) as file:
                    while file.read(_CHUNK):
                        pass
    except _LOAD_ERRORS:
        return name
    return None


def _load(path: str | os.PathLike[str]) -> Any:
    name = os.fspath(path)
    head, pickled = _look(name)
    if pickled is not None:
        return _load_pickle(name, pickled, mmap=head == _archive.LOCAL_MAGIC)
    if head == _archive.LOCAL_MAGIC:
        cure = "is cut short or damaged, or no PyTorch file; get it again."
        if is_container(name):
            cure = "is a .distillgan file; `distillgan unpack --component vocoder` takes its vocoder out."
        raise CheckpointError(f"{name}: {cure}")
    try:
        return _load_safetensors(name)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{name}: neither a PyTorch nor a safetensors file can be read here ({error}); "
            "give a .pt checkpoint, a state dict or a .safetensors file."
        ) from None


def _look(path: str) -> tuple[bytes, bytes | None]:
    """The first bytes of a file, and its pickled structure if it has one that may be read."""
    source = open_file(path)
    try:
        pickled = _foreign.read_pickle(source.size, source.read)
        if pickled is not None:
            _foreign.refuse_saved_model(pickled)
        return source.read(0, 4), pickled
    except FormatError as error:
        raise error.at(path) from None
    finally:
        source.close()


def _load_pickle(path: str, pickled: bytes, *, mmap: bool) -> Any:
    stand_ins = [(Inert, name) for name in _foreign.pickle_globals(pickled) if name.startswith(_APP_MODULE)]
    try:
        with torch.serialization.safe_globals([*_NUMPY_GLOBALS, *stand_ins]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocols and typed storages: nothing to act on
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _LOAD_ERRORS as error:
        raise CheckpointError(f"{path}: {_reason(error, pickled)}") from None


def _reason(error: BaseException, pickled: bytes) -> str:
    """Why torch.load refused, in a sentence; torch's own text advises turning safety off."""
    text = str(error)
    for name in sorted(_foreign.pickle_globals(pickled)):
        if f"GLOBAL {name.removeprefix('builtins.')} was not" in text or f"GLOBAL {name} whose" in text:
            return (
                f"refused, because it refers to {name}, which is neither a tensor nor a plain value; "
                "nothing of it was run. Save the model's state_dict() alone and pack that."
            )
    if isinstance(error, pickle.UnpicklingError):
        return (
            "holds Python objects that cannot be read safely; nothing of them was run. "
            "Save the model's state_dict() alone and pack that."
        )
    return f"cannot be read as a PyTorch file ({type(error).__name__}); is it damaged or cut short?"


def _load_safetensors(path: str) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        for key, stored in (file.metadata() or {}).items():
            if key.startswith("alias:") and stored in tensors:
                tensors.setdefault(key.removeprefix("alias:"), tensors[stored])
    return tensors


def _find_state_dict(
    loaded: Any, path: str | os.PathLike[str], keys: tuple[str, ...]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The state dict in what a file holds, and the top level that may tell more of it."""
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a checkpoint or a state dict.")
    for key in keys:
        inner = loaded.get(key)
        if isinstance(inner, Mapping) and inner:
            return inner, loaded
    if set(loaded) & _GAN_KEYS:
        name = os.path.basename(path)
        other = "g_" + name.removeprefix("do_") if name.startswith("do_") else "its generator file (g_…)"
        raise CheckpointError(
            f"{path}: holds discriminators and optimizers and no generator; give {other} instead."
        )
    if any(isinstance(value, torch.Tensor) for value in loaded.values()):
        return loaded, {}
    names = ", ".join(sorted(map(str, loaded))[:8]) or "none"
    raise CheckpointError(f"{path}: no state dict found among its keys ({names}).")


def _get(top: Mapping[str, Any], key: str) -> Any:
    value = top.get(key)
    return value.item() if isinstance(value, np.generic) else value


def _loss(top: Mapping[str, Any], key: str) -> float | None:
    value = _get(top, key)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _numpy_globals() -> list[Any]:
    """What NumPy arrays and scalars in a pickle refer to, under NumPy 1's names and NumPy 2's."""
    values: tuple[Any, ...] = (np.array(0), np.float64(0))
    functions = [value.__reduce__()[0] for value in values]  # _reconstruct, scalar
    names = [(f, f"numpy.{core}.multiarray.{f.__name__}") for core in ("core", "_core") for f in functions]
    dtypes = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [np.ndarray, np.dtype, *names, *dtypes]


_NUMPY_GLOBALS = _numpy_globals()


def finite_or_none(loss: float | None) -> float | None:
    """A loss as the manifest holds it: null when it is not a finite number."""
    return loss if loss is not None and math.isfinite(loss) else None
