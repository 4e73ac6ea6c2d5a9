"""Streaming a component to CUDA: windows of the file through two pinned buffers and a side stream."""

from __future__ import annotations

from ._lazy import LazyTensors


class CudaTensors(LazyTensors):
    """Tensors on a CUDA device."""
