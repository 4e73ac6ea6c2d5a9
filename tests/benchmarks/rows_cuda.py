"""Rows of CUDA; skipped, with the reason, where there is no device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from data import Data, Saved
from measure import Row, SkippedRowError, Target

Build = Callable[[Data], Row]

_PINNED = "pinned copy"


def plans() -> Iterator[tuple[str, Build]]:
    """Each row's name and how to build it."""
    for model in ("small", "big"):
        yield f"to CUDA, {model}", partial(to_device, model=model)


def to_device(data: Data, *, model: str) -> Row:
    """Both components on the device, done when the device is done."""
    if not torch.cuda.is_available():
        raise SkippedRowError("PyTorch sees no CUDA device")
    saved = data.model(model)
    size = sum(t.nbytes for t in (*saved.pair.vae.values(), *saved.pair.vocoder.values()))
    contestants: dict[str, Any] = {
        "ours": partial(_synced, partial(_ours, saved)),
        _PINNED: partial(_synced, _pinned_copy(size)),
        "safetensors mmap": partial(_synced, partial(_safetensors, saved, "mmap")),
        "safetensors pread": partial(_synced, partial(_safetensors, saved, "pread")),
    }
    fast = _fastsafetensors(saved)
    if fast is not None:
        contestants["fastsafetensors"] = partial(_synced, fast)
    safetensors = ("safetensors mmap", "safetensors pread")
    target = Target((_PINNED,), 1 / 0.9) if model == "big" else Target(safetensors, 0.5)
    return Row(f"to CUDA, {model}", contestants, [target], note=torch.cuda.get_device_name())


def _synced(load: Callable[[], object]) -> None:
    kept = load()
    torch.cuda.synchronize()
    del kept


def _ours(saved: Saved) -> object:
    from distillgan.torch import load_model

    loaded = load_model(saved.ours, "cuda")
    return dict(loaded.state_dict), dict((loaded.vocoder_state or {})["state_dict"])


def _safetensors(saved: Saved, backend: str) -> object:
    from safetensors.torch import load_file

    return [load_file(path, device="cuda", backend=backend) for path in (saved.vae, saved.vocoder)]


def _pinned_copy(size: int) -> Callable[[], object]:
    """The floor: bytes that are in pinned memory already, into memory that is there already."""
    host = torch.zeros(size, dtype=torch.uint8).pin_memory()
    device = torch.empty(size, dtype=torch.uint8, device="cuda")
    return lambda: device.copy_(host, non_blocking=True)


def _fastsafetensors(saved: Saved) -> Callable[[], object] | None:
    """The peer made for this, where it installs."""
    try:
        from fastsafetensors import fastsafe_open
    except ImportError:
        return None
    names = [*saved.pair.vae, *saved.pair.vocoder]

    def load() -> object:
        files = [saved.vae, saved.vocoder]
        with fastsafe_open(filenames=files, nogds=True, device="cuda:0", debug_log=False) as file:
            return {name: file.get_tensor(name).clone() for name in names}

    return load
