"""torch tensors <-> bytes: dtypes, ties, and what a container cannot hold."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .._safetensors import check_name
from ..errors import CheckpointError, DistillganError, FormatError
from ..writer import TensorContent

DTYPES: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}
if hasattr(torch, "float8_e8m0fnu"):  # torch 2.7
    DTYPES[torch.float8_e8m0fnu] = "F8_E8M0"
NAMES = {name: dtype for dtype, name in DTYPES.items()}
_EXPONENT_OF_ONES = {  # width in bytes, smallest bit pattern that is not a finite number
    "F64": (8, 0x7FF0 << 48), "F32": (4, 0x7F800000), "C64": (4, 0x7F800000), "F16": (2, 0x7C00),
    "BF16": (2, 0x7F80), "F8_E5M2": (1, 0x7C), "F8_E4M3": (1, 0x7F),
}  # fmt: skip
_SMALL = 64 * 1024  # bytes: below, a mapping costs more than it gives back
_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that a safetensors header names; DistillganError if this PyTorch does not have it."""
    try:
        return NAMES[name]
    except KeyError:
        raise DistillganError(f"PyTorch {torch.__version__} has no {name}: upgrade PyTorch.") from None


class SavedTensor:
    """A tensor of a state dict, as the writer wants it."""

    def __init__(self, name: str, tensor: torch.Tensor):
        self.name = name
        self.dtype = DTYPES[tensor.dtype]
        self.shape = tuple(tensor.shape)
        self.is_finite = True
        self._tensor = tensor

    def data(self) -> memoryview:
        """The bytes: the tensor's own memory, or that of a copy which the view keeps alive."""
        tensor = self._tensor.detach()
        plain = tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
        if plain and tensor.device.type == "cpu":
            return as_memory(tensor)
        if tensor.numel() * tensor.element_size() < _SMALL:
            return as_memory(tensor.cpu().resolve_conj().resolve_neg().contiguous())
        return _copy(tensor)

    def examine(self, data: memoryview) -> None:
        """Note whether the bytes hold a NaN or an infinity: an exponent of ones, in either sign.

        Two integer maxima tell, at a fraction of what arithmetic costs, for every float alike.
        """
        if not data or self.dtype not in _EXPONENT_OF_ONES:
            return
        width, pattern = _EXPONENT_OF_ONES[self.dtype]
        unsigned = np.frombuffer(data, f"u{width}")
        sign = 1 << (8 * width - 1)
        signed_top = int(unsigned.view(f"i{width}").max())
        self.is_finite = signed_top < pattern and int(unsigned.max()) < pattern + sign


def _copy(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes in memory that goes back to the system at once; malloc would keep it."""
    memory = mmap.mmap(-1, tensor.numel() * tensor.element_size())
    torch.frombuffer(memory, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)
    return memoryview(memory)


def as_memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor, copied to the CPU if they are not there."""
    tensor = tensor.cpu()
    if tensor.numel() == 0:
        return memoryview(b"")
    size = tensor.numel() * tensor.element_size()
    buffer = (ctypes.c_ubyte * size).from_address(tensor.data_ptr())
    buffer.owner = tensor  # type: ignore[attr-defined]  # the memory lives as long as the view
    return memoryview(buffer).cast("B")


def content(state_dict: Mapping[str, Any]) -> TensorContent:
    """A safetensors member of a state dict; ties are stored once, under the least name.

    Raises CheckpointError that names the key for anything that cannot be kept faithfully.
    """
    stored: dict[tuple[object, ...], str] = {}
    tensors, aliases = [], {}
    for name in sorted(_checked(state_dict)):
        tensor = state_dict[name]
        first = stored.setdefault(_memory(name, tensor), name)
        if first == name:
            tensors.append(SavedTensor(name, tensor))
        else:
            aliases[name] = first
    return TensorContent(tensors, aliases)


def not_finite(saved: TensorContent) -> list[str]:
    """Names of tensors that were found to hold a NaN or an infinity when they were written."""
    return [name for name, t in saved.tensors.items() if isinstance(t, SavedTensor) and not t.is_finite]


def _checked(state_dict: Mapping[str, Any]) -> list[str]:
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(f"A {type(state_dict).__name__} is no state dict: give model.state_dict().")
    for name, value in state_dict.items():
        if not isinstance(name, str):
            raise CheckpointError(f"The key {name!r} is not a string: a tensor needs a name.")
        problem = _problem(value)
        if problem:
            raise CheckpointError(f"{name} {problem}.")
        try:
            check_name(name)
        except FormatError as error:
            raise CheckpointError(f"{name!r}: {error.message}; rename it.") from None
    return list(state_dict)


def _problem(value: object) -> str | None:
    """Why a container cannot hold a value as it is, or None."""
    if (
        isinstance(value, torch.Tensor)
        and type(value) in _PLAIN_TYPES
        and value.layout is torch.strided
        and value.dtype in DTYPES
        and not (value.is_meta or value.is_quantized)
    ):
        return None  # the usual tensor, without asking eight questions
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, not a tensor: leave it out of the state dict"
    if isinstance(value, torch.nn.parameter.UninitializedParameter | torch.nn.parameter.UninitializedBuffer):
        return "is not initialized: run the model once before saving"
    if value.is_meta:
        return "is on the meta device and has no data: load its weights first"
    if value.layout is not torch.strided:
        return f"is sparse ({value.layout}): call .to_dense() first"
    if value.is_quantized:
        return "is quantized: call .dequantize() first"
    if type(value) not in _PLAIN_TYPES:
        return f"is a {type(value).__name__}, a subclass of Tensor: convert it to a plain tensor first"
    if value.dtype not in DTYPES:
        return f"has dtype {value.dtype}, which safetensors does not know: convert it first"
    return None


def _memory(name: str, tensor: torch.Tensor) -> tuple[object, ...]:
    """What two tied tensors have in common; an empty tensor has no memory to share."""
    if tensor.numel() == 0:
        return (name,)
    return (
        tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.dtype,
        tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg(),
    )  # fmt: skip
