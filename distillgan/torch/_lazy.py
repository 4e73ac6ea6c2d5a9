"""A component's tensors as a mapping that makes each one when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from .. import _archive
from .._safetensors import ITEM_SIZE, Header, TensorSpec, digest
from ..container import BufferSource, Container, entry_name
from ..errors import IntegrityError
from ._tensors import NAMES

_STRIDES: dict[tuple[int, ...], tuple[int, ...]] = {}
_MOST_STRIDES = 4096  # shapes remembered: a network repeats few, and working one out costs as much as a view


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a row-major tensor, in elements."""
    strides, stride = [], 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= max(size, 1)
    if len(_STRIDES) >= _MOST_STRIDES:
        _STRIDES.clear()
    _STRIDES[shape] = tuple(reversed(strides))
    return _STRIDES[shape]


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
        self._known: dict[str, TensorSpec] | None = None
        self._listed = False
        self._made: dict[str, torch.Tensor] = {}
        self._bases: dict[str, torch.Tensor] = {}

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Name, dtype, shape and extent of every tensor; aliases have the spec of their tensor."""
        return self._specs

    def __getitem__(self, name: str) -> torch.Tensor:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._get(name)
        return made

    def __iter__(self) -> Iterator[str]:
        # dict() and load_state_dict list the names and then ask for the first: they want them all.
        self._listed = True
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._component}: {len(self)} tensors on {self._device}>"

    @property
    def _header(self) -> Header:
        return self._container.header(self._component)

    @property
    def _specs(self) -> dict[str, TensorSpec]:
        if self._known is None:
            self._known = self._container.tensors(self._component)
        return self._known

    def _get(self, name: str) -> torch.Tensor:
        spec = self._specs[name]
        if self._listed and name == next(iter(self._specs)):
            self._make_all()
            if name in self._made:
                return self._made[name]
        if spec.name != name:
            return self[spec.name]
        tensor = self._make(spec)
        if self._verify and len(self._made) + 1 >= len(self._header.tensors):
            self._check_crc(spec.name)
        return tensor

    def _make(self, spec: TensorSpec) -> torch.Tensor:
        view = self._view(spec)
        if self._verify:
            self._check(spec, self._memory[self._start + spec.begin : self._start + spec.end])
        return view if self._device.type == "cpu" else view.to(self._device)

    def _make_all(self) -> None:
        """Make every tensor that is not there yet, where that is quicker than one by one."""
        if self._verify or self._device.type != "cpu":
            return
        made, view = self._made, self._view
        for name, spec in self._specs.items():
            if name not in made:
                made[name] = view(spec) if spec.name == name else self[spec.name]

    def _view(self, spec: TensorSpec) -> torch.Tensor:
        """A view of the file's memory: one strided view of a base for each dtype."""
        dtype, shape, begin = spec.dtype, spec.shape, spec.begin
        base = self._bases.get(dtype)
        if base is None:
            base = self._bases[dtype] = self._base(dtype)
        strides = _STRIDES.get(shape)
        if strides is None:
            strides = _strides(shape)
        return base.as_strided(shape, strides, (self._start + begin) // ITEM_SIZE[dtype])

    def _base(self, dtype: str) -> torch.Tensor:
        memory = self._memory
        return torch.frombuffer(memory, dtype=NAMES[dtype], count=len(memory) // ITEM_SIZE[dtype])

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

    def _check_crc(self, last: str) -> None:
        """When every digest has been right: the archive's own CRC, which other ZIP readers check."""
        name = entry_name(self._component)
        entry = self._container.entry(name)
        others = self._header.tensors.keys() - self._made.keys() - {last}
        if entry is None or others:
            return
        crc, at = 0, entry.offset
        while at < entry.offset + entry.size:
            chunk = self._container.source.read(at, min(1 << 20, entry.offset + entry.size - at))
            crc, at = _archive.crc32(chunk, crc), at + len(chunk)
        if crc != entry.crc:
            raise IntegrityError(
                "zip.crc", "the bytes do not fit their CRC-32", where=name, component=self._component
            ).at(self._container.path)
