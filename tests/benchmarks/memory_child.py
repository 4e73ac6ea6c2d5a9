"""One measurement of memory in a process of its own: prints the bytes that the work took."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any


def load(kind: str, touched: str, one: str, *paths: str) -> float:
    """Resident growth by loading, after the same code has run on a small model."""
    import torch

    torch.set_num_threads(1)
    loaders: dict[str, Callable[..., Any]] = {
        "load": _load_ours,
        "load-mmap": lambda *files: _load_safetensors("mmap", files),
        "load-pread": lambda *files: _load_safetensors("pread", files),
        "load-torch": _load_torch,
    }
    *files, warm = paths
    small = loaders[kind](warm)
    _touch(small, "all", "")
    before = _status("VmRSS")
    parts = loaders[kind](*files)
    _touch(parts, touched, one)
    return _status("VmRSS") - before


def save(kind: str, layout: str, size: str, folder: str) -> float:
    """Peak above the model while saving four tensors of `size` bytes."""
    import safetensors.torch
    import torch

    from distillgan import ModelMetadata
    from distillgan.torch import save_model

    side = int((int(size) // 4) ** 0.5)
    tensors = {f"layer.{n}": torch.full((side, side), float(n)) for n in range(4)}
    if layout == "transposed":
        tensors = {name: tensor.t() for name, tensor in tensors.items()}
    save_model({"a": torch.ones(3)}, None, {}, ModelMetadata(name="warm"), folder)
    before = _reset_peak()
    if kind == "save":
        path = save_model(tensors, None, {}, ModelMetadata(name="model"), folder)
    else:
        path = os.path.join(folder, "model.safetensors")
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, path)
    peak = _status("VmHWM") - before
    os.unlink(path)
    return peak


def pack(size: str, checkpoint: str, folder: str) -> float:
    """Peak while packing, less the model's own bytes."""
    from distillgan_cli.main import cli

    import distillgan.torch  # noqa: F401  # imported by pack; not what is measured here

    target = os.path.join(folder, "packed.distillgan")
    before = _reset_peak()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.main(["pack", checkpoint, "-o", target])
    peak = _status("VmHWM") - before
    if os.path.getsize(target) < int(size):
        raise AssertionError("not the whole model was packed")
    os.unlink(target)
    return max(0.0, peak - int(size))


def verify(path: str, warm: str) -> float:
    """Peak growth by verifying."""
    from distillgan import verify as find_problems

    find_problems(warm)
    before = _reset_peak()
    if find_problems(path):
        raise AssertionError("a sound file is said to be damaged")
    return _status("VmHWM") - before


def library(folder: str) -> float:
    """Resident growth by an open library."""
    from distillgan.catalog import ModelLibrary

    before = _status("VmRSS")
    library = ModelLibrary(folder)
    growth = _status("VmRSS") - before
    if not library.count():
        raise AssertionError("the library is empty")
    return growth


def _load_ours(path: str) -> list[Any]:
    from distillgan.torch import load_model

    loaded = load_model(path)
    return [dict(loaded.state_dict), dict(loaded.vocoder_state["state_dict"])]


def _load_safetensors(backend: str, paths: tuple[str, ...]) -> list[Any]:
    from safetensors.torch import load_file

    return [load_file(path, backend=backend) for path in paths]


def _load_torch(path: str) -> list[Any]:
    import torch

    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return [loaded["vae"], loaded["vocoder"]]


def _touch(parts: list[Any], what: str, one: str) -> None:
    for part in parts:
        for name, tensor in part.items():
            if what == "all" or (what == "one" and name == one):
                tensor.sum()


def _status(field: str) -> float:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field + ":"))
    return float(line.split()[1]) * 1024


def _reset_peak() -> float:
    """Forget the peak so far; what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


if __name__ == "__main__":
    work, *arguments = sys.argv[1:]
    if work.startswith("load"):
        print(load(work, *arguments))
    elif work.startswith("save"):
        print(save(work, *arguments))
    else:
        print({"pack": pack, "verify": verify, "library": library}[work](*arguments))
