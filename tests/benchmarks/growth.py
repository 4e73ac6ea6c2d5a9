"""How cost grows: with tensors, with the model, with the library, with the manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data import Data, Pair, zero_pair
from measure import Row, exponent, measure
from rows_library import read_all, stat_all, write_library
from rows_save import _set_syncing

LINEAR = 1.1  # the most that proportional cost may measure as
CONSTANT = 0.1
_ROUNDS = 5

Point = tuple[float, dict[str, float]]


@dataclass
class Growth:
    """Medians of each contestant at several sizes, and the exponent of each."""

    name: str
    axis: str
    limit: float
    points: list[Point] = field(default_factory=list)

    @property
    def exponents(self) -> dict[str, float]:
        """The exponent of each contestant over the whole range."""
        names = self.points[0][1]
        return {name: exponent((x, medians[name]) for x, medians in self.points) for name in names}

    @property
    def missed(self) -> bool:
        """Whether ours grows faster than it may."""
        return self.exponents["ours"] > self.limit


Build = Callable[[Data], Growth]


def plans() -> Iterator[tuple[str, Build]]:
    """Each picture's name and how to measure it."""
    for work in ("all tensors", "open and one tensor", "verify", "save"):
        yield f"growth: {work}, by tensors", partial(by_tensors, work=work)
    for work in ("all tensors", "open and one tensor", "verify", "save"):
        yield f"growth: {work}, by bytes", partial(by_bytes, work=work)
    yield "growth: read one manifest, by bytes", by_manifest
    yield "growth: scan, by files", partial(by_files, work="scan")
    yield "growth: refresh, by files", partial(by_files, work="refresh")


def by_tensors(data: Data, *, work: str) -> Growth:
    """10 to 10,000 tensors of 1 KB."""
    growth = Growth(f"growth: {work}, by tensors", "tensors", LINEAR)
    for count in (10, 100, 1000) if data.quick else (10, 30, 100, 300, 1000, 3000, 10_000):
        _add_point(growth, data, count, zero_pair(count, count * 1024), work)
    return growth


def by_bytes(data: Data, *, work: str) -> Growth:
    """Models of 64 tensors, from 1 MB to 1 GB, or 8 GB with --full, on pages of zeros."""
    limit = LINEAR if work in ("verify", "save") else CONSTANT
    growth = Growth(f"growth: {work}, by bytes", "bytes", limit)
    exponents = range(20, 24 if data.quick else 34 if data.full else 31, 1 if data.quick else 2)
    sizes = [1 << power for power in exponents]
    if data.full and not data.quick:
        sizes.append(1 << 33)
    for size in sizes:
        _add_point(growth, data, size, zero_pair(64, size), work)
    return growth


def by_manifest(data: Data) -> Growth:
    """Manifests from 2 KB to 1 MB, grown by numbers in the training configuration."""
    from distillgan import read_manifest

    growth = Growth("growth: read one manifest, by bytes", "bytes", LINEAR)
    folder = data.fresh("growth")
    for size in (2_000, 8_000, 32_000, 128_000, 512_000, 1_000_000):
        pair = zero_pair(1, 64)
        pair.training_config = {"history": [index / 7 for index in range(size // 21)]}
        path = str(pair.save(folder))
        length = read_manifest(path).training_config_json
        contestants: dict[str, Any] = {
            "ours": partial(read_manifest, path),
            "open+read+close": partial(_read, path, len(bytes(length))),
        }
        medians = measure(Row(growth.name, contestants), _ROUNDS).medians
        growth.points.append((len(bytes(length)), medians))
    return growth


def by_files(data: Data, *, work: str) -> Growth:
    """Libraries of 10 to 20,000 files, or 100,000 with --full."""
    from distillgan._index import Listing
    from distillgan._survey import survey
    from distillgan.catalog import ModelLibrary

    growth = Growth(f"growth: {work}, by files", "files", LINEAR)
    counts = [10, 100, 1000] if data.quick else [10, 100, 1000, 5000, 20_000]
    for count in counts + ([100_000] if data.full and not data.quick else []):
        folder = data.folder / f"library-{count}"
        if not folder.exists():
            folder.mkdir()
            write_library(folder, count)
        if work == "scan":
            contestants: dict[str, Any] = {
                "ours": partial(survey, folder, Listing()),
                "scandir+open+read+close": partial(read_all, folder),
            }
        else:
            library = ModelLibrary(folder)
            contestants = {"ours": library.refresh, "scandir+stat": partial(stat_all, folder)}
        growth.points.append((count, measure(Row(growth.name, contestants), _ROUNDS).medians))
    return growth


def _add_point(growth: Growth, data: Data, x: float, pair: Pair, work: str) -> None:
    folder = data.fresh("growth")
    try:
        growth.points.append((x, measure(_row(folder, pair, work), _ROUNDS).medians))
    finally:
        shutil.rmtree(folder)


def _row(folder: Path, pair: Pair, work: str) -> Row:
    """The contestants of a size: ours, safetensors, a floor."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from distillgan import verify
    from distillgan.torch import load_model

    peer = str(folder / "peer.safetensors")
    if work == "save":
        contestants: dict[str, Any] = {
            "ours": partial(pair.save, folder),
            "safetensors": partial(save_file, pair.vae, peer),
        }
        return Row("", contestants, before=partial(_set_syncing, False), after=partial(_empty, folder))
    path = str(pair.save(folder))
    save_file(pair.vae, peer)
    name = next(iter(pair.vae))

    def take_one() -> None:
        with safe_open(peer, "pt") as file:
            file.get_tensor(name)

    works: dict[str, dict[str, Any]] = {
        "all tensors": {
            "ours": lambda: dict(load_model(path).state_dict),
            "safetensors": partial(load_file, peer),
        },
        "open and one tensor": {"ours": lambda: load_model(path).state_dict[name], "safetensors": take_one},
        "verify": {"ours": partial(verify, path), "sha256 (hashlib)": partial(_sha256, path)},
    }
    return Row("", works[work])


def _empty(folder: Path, _: str) -> None:
    _set_syncing(True, _)
    for name in os.listdir(folder):
        os.unlink(folder / name)


def _read(path: str, size: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, size + 4096)
    os.close(fd)


def _sha256(path: str) -> bytes:
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
