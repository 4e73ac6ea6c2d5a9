"""Rows of memory: what a process that loads, saves or packs takes above what it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from data import REPOSITORY, Data, Pair
from measure import Row, Target

Build = Callable[[Data], Row]

MEGABYTE = 1 << 20
_LARGE = 256 * MEGABYTE  # a tensor larger than any allowance but its own
_CHILD = Path(__file__).with_name("memory_child.py")
_ROUNDS = 3


def plans() -> Iterator[tuple[str, Build]]:
    """Each row's name and how to build it."""
    for touched in ("nothing", "one", "all"):
        yield f"memory: load big, touch {touched}", partial(load, touched=touched)
    yield "memory: save, contiguous", partial(save, kind="contiguous")
    yield "memory: save, transposed", partial(save, kind="transposed")
    yield "memory: pack", pack
    yield "memory: verify", verify
    yield "memory: an entry of a library", entry


def load(data: Data, *, touched: str) -> Row:
    """Resident growth by loading all tensors and touching some: pages touched + 2 MB."""
    saved, warm = data.model("big"), data.model("small")
    pages = _touched_bytes(saved.pair, touched, saved.first_name)
    paths = {"ours": [saved.ours, warm.ours], "safetensors": [saved.vae, saved.vocoder, warm.vae]}
    contestants = {
        "ours": partial(_child, "load", touched, saved.first_name, *paths["ours"]),
        "pages touched + 2 MB": pages + 2e6,
        "safetensors mmap": partial(_child, "load-mmap", touched, saved.first_name, *paths["safetensors"]),
        "safetensors pread": partial(_child, "load-pread", touched, saved.first_name, *paths["safetensors"]),
        "torch.load mmap": partial(_child, "load-torch", touched, saved.first_name, saved.torch, warm.torch),
    }
    return _row(f"memory: load big, touch {touched}", contestants, "pages touched + 2 MB")


def save(data: Data, *, kind: str) -> Row:
    """Peak above the model while saving four tensors of 256 MB: largest tensor + 64 MB."""
    folder = data.fresh("memory")
    contestants = {
        "ours": partial(_child, "save", kind, str(_LARGE), str(folder)),
        "largest tensor + 64 MB": _LARGE + 64e6,
        "safetensors": partial(_child, "save-safetensors", kind, str(_LARGE), str(folder)),
    }
    return _row(f"memory: save, {kind}", contestants, "largest tensor + 64 MB")


def pack(data: Data) -> Row:
    """Peak above the model while packing a checkpoint of four tensors of 256 MB."""
    folder = data.fresh("memory")
    checkpoint = folder / "checkpoint.pt"
    tensors = {f"layer.{n}": torch.zeros(_LARGE // 4) for n in range(4)}
    torch.save({"model_state_dict": tensors}, checkpoint)
    contestants = {
        "ours": partial(_child, "pack", str(4 * _LARGE), str(checkpoint), str(folder)),
        "largest tensor + 64 MB": _LARGE + 64e6,
    }
    return _row("memory: pack", contestants, "largest tensor + 64 MB")


def verify(data: Data) -> Row:
    """Peak growth while verifying the big model: largest tensor + 64 MB."""
    saved, warm = data.model("big"), data.model("small")
    largest = max(tensor.nbytes for tensor in (*saved.pair.vae.values(), *saved.pair.vocoder.values()))
    contestants = {
        "ours": partial(_child, "verify", saved.ours, warm.ours),
        "largest tensor + 64 MB": largest + 64e6,
    }
    return _row("memory: verify", contestants, "largest tensor + 64 MB")


def entry(data: Data) -> Row:
    """Resident growth by an open library, by entry: under 2 KB."""
    from rows_library import _library

    folder, count = _library(data)
    contestants = {"ours": lambda: _child("library", str(folder)) / count, "2 KB": 2000.0}
    return _row("memory: an entry of a library", contestants, "2 KB", note=f"{count:,} files")


def _row(name: str, contestants: dict[str, Callable[[], float] | float], allowed: str, note: str = "") -> Row:
    return Row(name, contestants, [Target((allowed,), 1.0)], unit="B", rounds=_ROUNDS, note=note)


def _touched_bytes(pair: Pair, what: str, one: str) -> int:
    if what == "nothing":
        return 0
    everything = (*pair.vae.values(), *pair.vocoder.values())
    return pair.vae[one].nbytes if what == "one" else sum(tensor.nbytes for tensor in everything)


def _child(*arguments: str) -> float:
    paths = [str(REPOSITORY), str(REPOSITORY / "cli"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(_CHILD), *arguments]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr.strip()[-300:])
    return float(json.loads(done.stdout.splitlines()[-1]))
