"""A component's tensors as a mapping that makes each one when it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property

import torch

from .. import _archive
from .._safetensors import ITEM_SIZE, Header, Record, TensorSpec, digest
from ..container import BufferSource, Container, entry_name
from ..errors import IntegrityError
from ._tensors import torch_dtype

# Below these dispatch keys a view is a tensor of its own: with its own version counter, so that writing
# to one weight between forward and backward is no change of the others, and at half the cost.
_own_tensors: Callable[[], contextlib.AbstractContextManager[None]] = (
    torch._C._AutoDispatchBelowADInplaceOrView
)
_STRIDES: dict[tuple[int, ...], tuple[int, ...]] = {}
_CHUNK = 1024 * 1024
_MOST_STRIDES = 4096  # shapes remembered: a network repeats few, and working one out costs as much as a view
_USUAL_RANK = 8


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a row-major tensor, in elements."""
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= max(size, 1)
    found = tuple(reversed(strides))
    if len(shape) <= _USUAL_RANK and len(_STRIDES) < _MOST_STRIDES:
        _STRIDES[shape] = found
    return found


class LazyTensors(Mapping[str, torch.Tensor]):
    """Tensors by name, each made once: views of the file's memory, or copies on another device.

    The header is read when it is first needed, so a damaged one raises then.
    """

    def __init__(self, container: Container, component: str, device: torch.device, verify: bool):
        """Use `load_model`."""
        self._container = container
        self._component = component
        self._device = device
        self._verify = verify
        self._start = container.data_offset(component)
        self._listed = False
        self._made: dict[str, torch.Tensor] = {}
        self._bases: dict[str, torch.Tensor] = {}

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Name, dtype, shape and extent of every tensor; aliases have the spec of their tensor."""
        return self._container.tensors(self._component)

    def __getitem__(self, name: str) -> torch.Tensor:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._get(name)
        return made

    def __iter__(self) -> Iterator[str]:
        # dict() and load_state_dict list the names and then ask for the first: they want them all.
        self._listed = True
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._component}: {len(self)} tensors on {self._device}>"

    @property
    def _header(self) -> Header:
        return self._container.header(self._component)

    @cached_property
    def _names(self) -> Mapping[str, object]:
        """What may be asked for: the stored tensors in data order, then the aliases."""
        header = self._header
        return {**header.records, **header.aliases} if header.aliases else header.records

    def _get(self, name: str) -> torch.Tensor:
        if torch.is_inference_mode_enabled():  # what is made now may be trained later
            with torch.inference_mode(False):
                return self._get(name)
        if self._listed and name == next(iter(self._names), None):
            self._make_all()
            if name in self._made:
                return self._made[name]
        header = self._header
        if name not in header.records:
            return self[header.aliases[name]]
        tensor = self._make(name)
        if self._verify and len(self._made) + 1 >= len(header.records):
            self._check_crc({*self._made, name})
        return tensor

    def _make(self, name: str) -> torch.Tensor:
        with _own_tensors():
            view = self._view(self._header.records[name])
        if self._verify:
            spec = self._header.tensors[name]
            self._check(spec, self._memory[self._start + spec.begin : self._start + spec.end])
        return view if self._device.type == "cpu" else view.to(self._device)

    def _make_all(self) -> None:
        """Make every tensor that is not there yet, where that is quicker than one by one."""
        if self._verify or self._device.type != "cpu":
            return
        made, view = self._made, self._view
        with _own_tensors():
            for name, record in self._header.records.items():
                if name not in made:
                    made[name] = view(record)
        for name, stored in self._header.aliases.items():
            made[name] = made[stored]

    def _view(self, record: Record) -> torch.Tensor:
        """A view of the file's memory: one strided view of a base for each dtype."""
        dtype, shape = record.dtype, record.shape
        base = self._bases.get(dtype)
        if base is None:
            base = self._bases[dtype] = self._base(dtype)
        strides = _STRIDES.get(shape)
        if strides is None:
            strides = _strides(shape)
        return base.as_strided(shape, strides, (self._start + record.data_offsets[0]) // ITEM_SIZE[dtype])

    def _base(self, dtype: str) -> torch.Tensor:
        memory = self._memory
        return torch.frombuffer(memory, dtype=torch_dtype(dtype), count=len(memory) // ITEM_SIZE[dtype])

    @property
    def _memory(self) -> memoryview:
        source = self._container.source
        assert isinstance(source, BufferSource)
        return source.data

    def _check(self, spec: TensorSpec, data: memoryview) -> None:
        if digest(data) != spec.blake3:
            raise IntegrityError(
                "digest.tensor",
                "is not the tensor that was saved",
                where=f"{entry_name(self._component)}: {spec.name}",
                component=self._component,
                tensor=spec.name,
            ).at(self._container.path)

    def _check_crc(self, good: Collection[str]) -> None:
        """When every digest has been right: the archive's own CRC, which other ZIP readers check."""
        name = entry_name(self._component)
        entry = self._container.entry(name)
        if entry is None or not self._header.records.keys() <= set(good):
            return
        crc, at = 0, entry.offset
        buffer = memoryview(bytearray(min(_CHUNK, entry.size)))
        while at < entry.offset + entry.size:
            chunk = buffer[: entry.offset + entry.size - at]
            self._container.source.read_into(at, chunk)
            crc, at = _archive.crc32(chunk, crc), at + len(chunk)
        if crc != entry.crc:
            raise IntegrityError(
                "zip.crc", "the bytes do not fit their CRC-32", where=name, component=self._component
            ).at(self._container.path)
