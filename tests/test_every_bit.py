"""Every bit counts: one flipped, one byte removed or doubled, and no door is fooled.

`verify` finds each change. Every other door refuses the file with a FormatError or answers what it
answered before; weights come out as they were saved or not at all. The normal tests take one bit of
each byte that is not padding and a part of the rest; the stress tests take all.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import FIXTURES
from torch_helpers import raw

from distillgan import Container, FormatError, read_manifest, verify
from distillgan.torch import load_model

MEMORY = Path("/dev/shm")  # a file system in memory, where there is one
RUN = 16  # that many equal bytes are padding
SMALL = FIXTURES / "valid" / "plain.distillgan"
FULL = FIXTURES / "valid" / "full.distillgan"  # vocoder, preview and signature as well
LOADED = {SMALL: 1, FULL: 9}  # under stress, each so manyth file is loaded with torch
Change = tuple[str, bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory if it can be."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


def test_a_flipped_bit_in_any_byte_is_found(folder: Path) -> None:
    found = check(folder, FULL, some_bits(FULL.read_bytes()), load=23)
    assert not found, found[:10]


@pytest.mark.parametrize("kind", ["removed", "doubled"])
def test_a_byte_removed_or_doubled_is_found(folder: Path, kind: str) -> None:
    data = FULL.read_bytes()
    found = check(folder, FULL, resized(data, kind, step=11), load=23)
    assert not found, found[:10]


@pytest.mark.parametrize("part", ["manifest", "structure", "weights"])
def test_loading_gives_the_weights_that_were_saved_or_none(folder: Path, part: str) -> None:
    data = SMALL.read_bytes()
    ranges = {"manifest": range(912), "structure": range(4096, 4600), "weights": range(8180, len(data))}
    changes = [flipped(data, at, at % 8) for at in ranges[part]]
    found = check(folder, SMALL, changes, load=1)
    assert not found, found[:10]


@pytest.mark.stress
@pytest.mark.parametrize("path", [SMALL, FULL], ids=["small", "full"])
@pytest.mark.parametrize("bit", range(8))
def test_every_single_bit_is_found(folder: Path, path: Path, bit: int) -> None:
    data = path.read_bytes()
    found = check(folder, path, (flipped(data, at, bit) for at in range(len(data))), load=LOADED[path])
    assert not found, found[:10]


@pytest.mark.stress
@pytest.mark.parametrize("path", [SMALL, FULL], ids=["small", "full"])
@pytest.mark.parametrize("kind", ["removed", "doubled"])
def test_every_byte_removed_or_doubled_is_found(folder: Path, path: Path, kind: str) -> None:
    found = check(folder, path, resized(path.read_bytes(), kind), load=LOADED[path])
    assert not found, found[:10]


def check(folder: Path, original: Path, changes: Any, *, load: int) -> list[str]:
    """What went wrong with any of the changes; each `load`-th file is loaded with torch, too."""
    expected = {name: door(original) for name, door in DOORS.items()}
    path = folder / "changed.distillgan"
    found = []
    for number, (label, data) in enumerate(changes):
        path.write_bytes(data)
        if not verify(path):
            found.append(f"{label}: verify finds nothing")
        doors = DOORS if number % load == 0 else CHEAP
        found += [f"{label}: {said}" for name in doors if (said := complaint(name, path, expected[name]))]
    return found


def complaint(name: str, path: Path, expected: object) -> str:
    """What is wrong with a door's answer for a changed file, or nothing."""
    try:
        return "" if DOORS[name](path) == expected else f"{name} answers something else"
    except FormatError as error:
        return "" if str(error) else f"{name} says nothing"
    except Exception as error:
        return f"{name} raises {type(error).__name__}: {error}"


def manifest_of(path: Path) -> object:
    return read_manifest(path)


def tensors_of(path: Path) -> object:
    with Container.open(path) as container:
        return {name: container.tensors(name) for name in container.components}


def weights_of(path: Path) -> object:
    """Every tensor's bytes with its digest checked, and the latent analysis."""
    loaded = load_model(path, verify=True)
    states = {"vae": loaded.state_dict}
    if loaded.vocoder_state is not None:
        states["vocoder"] = loaded.vocoder_state["state_dict"]
    return {name: {key: raw(state[key]) for key in state} for name, state in states.items()}


CHEAP: dict[str, Callable[[Path], object]] = {"read_manifest": manifest_of, "Container": tensors_of}
DOORS = CHEAP | {"load_model": weights_of}


def flipped(data: bytes, at: int, bit: int) -> Change:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return f"bit {bit} of byte {at}", bytes(changed)


def some_bits(data: bytes) -> Iterator[Change]:
    """One bit of each byte, by chance but the same each time; of padding, a tenth of the bytes."""
    chance = random.Random(5)
    for at in range(len(data)):
        if chance.random() < 0.1 or data[at - RUN : at + RUN].count(data[at]) < RUN:
            yield flipped(data, at, chance.randrange(8))


def resized(data: bytes, kind: str, step: int = 1) -> Iterator[Change]:
    for at in range(0, len(data), step):
        middle = b"" if kind == "removed" else data[at : at + 1] * 2
        yield f"byte {at} {kind}", data[:at] + middle + data[at + 1 :]
