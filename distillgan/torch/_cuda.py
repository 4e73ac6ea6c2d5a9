"""Streaming a component to CUDA: windows of the file through two pinned buffers and a side stream.

While one window is on its way to the device, the next is read into the other buffer. On the device
a window lands in one staging buffer and is dealt out to the tensors, each its own allocation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from .._safetensors import TensorSpec
from ..errors import FormatError
from ._lazy import LazyTensors
from ._tensors import as_memory, torch_dtype

WINDOW = 8 * 1024 * 1024
_SLICE = 1024 * 1024  # bytes that one reader reads at a time
_READERS = 8  # one thread copies from the page cache at a fifth of what the bus carries


class Piece(NamedTuple):
    """Part of a tensor in a window: `length` bytes at `source` in the window, `target` in the tensor."""

    name: str
    source: int
    target: int
    length: int


class Window(NamedTuple):
    """A range of a component's data, and whose bytes they are."""

    begin: int
    end: int
    pieces: tuple[Piece, ...]


def plan_windows(specs: Iterable[TensorSpec], size: int) -> list[Window]:
    """Cut tensors in data order into windows of at most `size` bytes; gaps between them are skipped."""
    windows: list[Window] = []
    pieces: list[Piece] = []
    begin = end = 0
    for spec in specs:
        position = spec.begin
        while position < spec.end:
            if pieces and (position != end or end - begin == size):
                windows.append(Window(begin, end, tuple(pieces)))
                pieces = []
            if not pieces:
                begin = end = position
            length = min(spec.end - position, size - (end - begin))
            pieces.append(Piece(spec.name, position - begin, position - spec.begin, length))
            position = end = position + length
    return [*windows, Window(begin, end, tuple(pieces))] if pieces else windows


class CudaTensors(LazyTensors):
    """Tensors on a CUDA device: one asked for is one copied; asked for all, they are streamed."""

    def _make(self, name: str) -> torch.Tensor:
        spec = self._header.tensors[name]
        data = memoryview(bytearray(spec.nbytes))
        self._fill(spec.begin, data)
        if self._verify:
            self._check(spec, data)
        if not data:
            return torch.empty(spec.shape, dtype=torch_dtype(spec.dtype), device=self._device)
        host = torch.frombuffer(data, dtype=torch_dtype(spec.dtype)).view(spec.shape)
        return host.to(self._device)

    def _make_all(self) -> None:
        """Stream every tensor that is not there yet."""
        wanted = [spec for name, spec in self._header.tensors.items() if name not in self._made]
        made = {s.name: torch.empty(s.shape, dtype=torch_dtype(s.dtype), device=self._device) for s in wanted}
        windows = plan_windows(wanted, WINDOW)
        targets = {name: tensor.reshape(-1).view(torch.uint8) for name, tensor in made.items()}
        if windows:
            lane = CudaLane(self._device, max(window.end - window.begin for window in windows))
            self._run(lane, windows, targets)
        if self._verify:
            for spec in wanted:
                self._check(spec, as_memory(made[spec.name]))
            self._check_crc({*self._made, *made})
        self._made.update(made)
        self._made.update({name: self._made[stored] for name, stored in self._header.aliases.items()})

    def _run(self, lane: Lane, windows: Sequence[Window], targets: Mapping[str, torch.Tensor]) -> None:
        """Read each window while the one before is being copied."""
        try:
            with ThreadPoolExecutor(_READERS) as pool:
                pending = self._start_reading(pool, windows[0], lane.buffer(0))
                for number, window in enumerate(windows):
                    for job in pending:
                        job.result()
                    if number + 1 < len(windows):
                        pending = self._start_reading(pool, windows[number + 1], lane.buffer(number + 1))
                    lane.send(number, window, targets)
        finally:  # also when a read failed: the memory must not go back while copies are on their way
            lane.finish()

    def _start_reading(
        self, pool: ThreadPoolExecutor, window: Window, buffer: torch.Tensor
    ) -> list[Future[None]]:
        memory = as_memory(buffer)
        length = window.end - window.begin
        return [
            pool.submit(self._fill, window.begin + at, memory[at : min(at + _SLICE, length)])
            for at in range(0, length, _SLICE)
        ]

    def _fill(self, begin: int, memory: memoryview) -> None:
        try:
            self._container.source.read_into(self._start + begin, memory)
        except FormatError as error:
            raise error.at(self._container.path) from None


class Lane:
    """Two host buffers in turn, and the way from them to the tensors: here, memory to memory."""

    def __init__(self, device: torch.device, size: int, *, pinned: bool = False):
        self._buffers = [
            torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned) for _ in range(2)
        ]
        self._staging = torch.empty(size, dtype=torch.uint8, device=device)

    def buffer(self, number: int) -> torch.Tensor:
        """The host buffer of a window, once what it held before has left."""
        return self._buffers[number % 2]

    def send(self, number: int, window: Window, targets: Mapping[str, torch.Tensor]) -> None:
        """Copy a window to the device and deal it out to the tensors (flat, as bytes)."""
        length = window.end - window.begin
        self._staging[:length].copy_(self._buffers[number % 2][:length], non_blocking=True)
        self._sent(number)
        torch._foreach_copy_(
            [targets[piece.name][piece.target : piece.target + piece.length] for piece in window.pieces],
            [self._staging[piece.source : piece.source + piece.length] for piece in window.pieces],
        )

    def finish(self) -> None:
        """Order what comes after behind the copies."""

    def _sent(self, number: int) -> None:
        """Note that the buffer of a window is on its way."""


class CudaLane(Lane):
    """Pinned buffers and a side stream of a CUDA device."""

    def __init__(self, device: torch.device, size: int):
        super().__init__(device, size, pinned=True)
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._side.wait_stream(torch.cuda.current_stream(device))  # the tensors are allocated there
        self._events: list[torch.cuda.Event | None] = [None, None]

    def buffer(self, number: int) -> torch.Tensor:
        """The pinned buffer of a window, once the copy from it is done."""
        event = self._events[number % 2]
        if event is not None:
            event.synchronize()
        return super().buffer(number)

    def send(self, number: int, window: Window, targets: Mapping[str, torch.Tensor]) -> None:
        """Queue a window's copies on the side stream."""
        with torch.cuda.stream(self._side):
            super().send(number, window, targets)

    def finish(self) -> None:
        """Let the device's current stream wait for the copies, and the host buffers outlive them."""
        torch.cuda.current_stream(self._device).wait_stream(self._side)
        self._side.synchronize()

    def _sent(self, number: int) -> None:
        self._events[number % 2] = event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._side)
