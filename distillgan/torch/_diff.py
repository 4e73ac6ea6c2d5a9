"""How much the values of two models differ."""

from __future__ import annotations

import os

import msgspec
import torch

from .. import _safetensors
from .._diff import Changed, Diff, Part, compare, open_side, pairs
from .._safetensors import TensorSpec
from ..errors import IntegrityError
from ._tensors import NAMES

_BLOCK = 1024 * 1024  # elements widened at a time


def diff_values(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Diff:
    """Compare as `distillgan.diff` does, and measure each tensor that changed.

    Reads those tensors and checks their digests. Raises as `diff` does, and IntegrityError.
    """
    with open_side(a) as before, open_side(b) as after:
        found = compare(before, after)
        measured = {
            name: msgspec.structs.replace(
                found.components[name],
                changed=[_measure(item.name, *parts) for item in found.components[name].changed],
            )
            for name, parts in pairs(before, after)
        }
    return msgspec.structs.replace(found, components=measured)


def _measure(name: str, before: Part, after: Part) -> Changed:
    a, b = (_tensor(part, part.tensors[name]) for part in (before, after))
    if a is None or b is None:
        return Changed(name, None, None)
    blocks = range(0, a.numel(), _BLOCK)
    changes = [_largest(a[i : i + _BLOCK], b[i : i + _BLOCK]) for i in blocks]
    absolute, relative = (
        _finite(torch.tensor(column, dtype=torch.float64).max()) for column in zip(*changes, strict=True)
    )
    return Changed(name, absolute, relative)


def _tensor(part: Part, spec: TensorSpec) -> torch.Tensor | None:
    """The elements of a tensor that has some, in one row; None if torch does not have the dtype."""
    dtype = NAMES.get(spec.dtype)
    if dtype is None:
        return None
    data = bytearray(part.read(spec))  # writable, or torch warns
    if spec.blake3 and _safetensors.digest(memoryview(data)) != spec.blake3:
        message = "is not the tensor that was saved; see `distillgan verify`"
        raise IntegrityError("digest.tensor", message, where=spec.name, tensor=spec.name)
    return torch.frombuffer(data, dtype=dtype)


def _largest(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """The largest absolute and relative change; NaN from a value that is NaN on one side only."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y = a.to(wide), b.to(wide)
    alike = (x == y) | (x.isnan() & y.isnan())
    absolute = torch.where(alike, 0.0, (y - x).abs())
    relative = torch.where(alike, 0.0, absolute / torch.maximum(x.abs(), y.abs()))
    return float(absolute.max()), float(relative.max())


def _finite(value: torch.Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None
