"""Python objects of a checkpoint -> JSON values, and arrays both ways; bounded in depth and size."""

from __future__ import annotations

import base64
import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from ..manifest import MAX_DEPTH, MAX_MANIFEST

_ARRAY_KEYS = {"dtype", "shape", "base64"}
_ARRAY_KINDS = "biuf"
_ARRAY_DTYPES = (  # np.dtype itself parses a language of its own
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip
_SCALARS = frozenset({str, int, float, bool, type(None)})
_MAX_INTEGER = 2**63


class Inert:
    """Stands in for an application's class met in a checkpoint: keeps its arguments, does nothing."""

    value: Any

    def __new__(cls, *arguments: Any) -> Inert:
        """Keep what a pickle calls the class with, whether or not it calls `__init__` as well."""
        self = super().__new__(cls)
        self.value = arguments[0] if len(arguments) == 1 else list(arguments)
        return self

    def __setstate__(self, state: Any) -> None:
        self.value = state


def plain_object(value: Mapping[str, Any] | None, where: str, *, arrays: bool = False) -> dict[str, Any]:
    """A dict of JSON values from a dict of Python's, NumPy's and an application's.

    Tuples become lists, enums and NumPy scalars their value; arrays are allowed if `arrays`.
    Raises CheckpointError with the path of a value that JSON does not have, of a non-finite
    number, of nesting over 32 levels, or of more than a manifest can hold.
    """
    try:
        if not isinstance(value, Mapping):
            raise _RefusedError(f"is a {type(value).__name__}, not a dict")
        return dict(_Converter(arrays).convert(value, 1))
    except _RefusedError as error:
        raise CheckpointError(f"{_short(where + error.path)} {error}.") from None


def decode_arrays(value: Any) -> Any:
    """JSON values with every array in its NumPy form again, bit for bit."""
    if isinstance(value, list):
        return [decode_arrays(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == _ARRAY_KEYS:
        return _decode_array(value)
    return {key: decode_arrays(item) for key, item in value.items()}


class _RefusedError(Exception):
    """A value that cannot be converted; its path grows as the error travels outwards."""

    path = ""


class _Converter:
    def __init__(self, arrays: bool):
        self._arrays = arrays
        self._budget = MAX_MANIFEST

    def convert(self, value: Any, depth: int) -> Any:
        self._spend(2)  # what any value costs a manifest at least
        if type(value) in _SCALARS:
            return self._scalar(value)
        if type(value) is list and depth <= MAX_DEPTH:
            return self._list(value, depth)
        if isinstance(value, Inert | enum.Enum) and depth <= MAX_DEPTH:  # one may hold itself
            return self.convert(value.value, depth + 1)
        if isinstance(value, np.generic):
            return self._scalar(value.item())
        if isinstance(value, np.ndarray | torch.Tensor) and self._arrays:
            return self._encode_array(value)
        if isinstance(value, Mapping | list | tuple):
            if depth > MAX_DEPTH:
                raise _RefusedError(f"is nested more than {MAX_DEPTH} levels deep")
            return self._dict(value, depth) if isinstance(value, Mapping) else self._list(value, depth)
        return self._scalar(value)

    def _dict(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        converted = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise _RefusedError(f"has the key {key!r}, which is not a string")
            try:
                converted[self._text(key)] = self.convert(item, depth + 1)
            except _RefusedError as error:
                error.path = f".{key}{error.path}"
                raise
        return converted

    def _list(self, value: Any, depth: int) -> list[Any]:
        converted = []
        try:
            for item in value:
                converted.append(self.convert(item, depth + 1))
        except _RefusedError as error:
            error.path = f"[{len(converted)}]{error.path}"
            raise
        return converted

    def _scalar(self, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            if abs(value) > _MAX_INTEGER:
                raise _RefusedError("is an integer outside ±2^63")
            return int(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise _RefusedError(f"is {value}: JSON has finite numbers only")
            return float(value)
        raise _RefusedError(f"is a {type(value).__name__}, which JSON does not have")

    def _text(self, value: str) -> str:
        self._spend(len(value))
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _RefusedError("holds text that is not valid Unicode") from None
        return str(value)

    def _encode_array(self, value: Any) -> dict[str, Any]:
        if isinstance(value, torch.Tensor):
            value = _as_numpy(value)
        if value.dtype.kind not in _ARRAY_KINDS or value.dtype.itemsize > 8:
            raise _RefusedError(f"is an array of {value.dtype}, not of numbers")
        self._spend(value.nbytes)
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        return {
            "dtype": little.dtype.name,
            "shape": list(value.shape),
            "base64": base64.b64encode(little.tobytes()).decode(),
        }

    def _spend(self, cost: int) -> None:
        self._budget -= cost
        if self._budget < 0:
            raise _RefusedError(f"is more than a manifest's {MAX_MANIFEST} bytes can hold")


def _as_numpy(tensor: torch.Tensor) -> Any:
    try:
        return tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError):
        raise _RefusedError(f"is a tensor of {tensor.dtype}, which NumPy does not have") from None


def _decode_array(value: dict[str, Any]) -> Any:
    try:
        shape = [int(size) for size in value["shape"]]
        if value["dtype"] not in _ARRAY_DTYPES or min(shape, default=0) < 0:
            return value
        dtype = np.dtype(value["dtype"])
        data = base64.b64decode(value["base64"], validate=True)
        array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
        return array.reshape(shape)
    except (TypeError, ValueError):  # an application's own dict of these three keys
        return value


def _short(where: str) -> str:
    return where if len(where) <= 200 else where[:100] + "…" + where[-60:]
