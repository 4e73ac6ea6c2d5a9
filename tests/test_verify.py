"""Every byte is what was saved, or is named."""

from __future__ import annotations

import random
import struct
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import FIXTURES, flip
from torch_helpers import save, vocoder_state

from distillgan import Container, ModelNotFoundError, Problem, verify
from distillgan.container import FileSource
from distillgan.errors import IntegrityError

VALID = FIXTURES / "valid"


@pytest.mark.parametrize("name", ["full", "signed", "vocoder"])
def test_any_flipped_bit_is_found(name: str, tmp_path: Path) -> None:
    """All bits of the first header and of the directory; a lot of the others."""
    path = tmp_path / "a.distillgan"
    data = (VALID / f"{name}.distillgan").read_bytes()
    padding = {position for position, byte in enumerate(data) if byte in b"\0 "}
    dense = sorted(set(range(len(data))) - padding)
    lot = random.Random(name)
    chosen = [(p, lot.randrange(8)) for p in lot.sample(dense, 250)]
    chosen += [(p, lot.randrange(8)) for p in lot.sample(sorted(padding), 100)]
    tail = data.rindex(b"PK\1\2")
    chosen += [(p, b) for p in range(tail, len(data)) for b in range(8)]
    chosen += [(p, b) for p in range(43) for b in range(8)]
    missed = []
    for position, bit in chosen:
        bad = bytearray(data)
        bad[position] ^= 1 << bit
        path.write_bytes(bad)
        if not verify(path):
            missed.append((position, bit))
    assert missed == []


def test_every_length_that_a_file_may_be_cut_to_is_found(tmp_path: Path) -> None:
    data = (VALID / "signed.distillgan").read_bytes()
    path = tmp_path / "a.distillgan"
    for size in [*range(60), *range(60, len(data), 97), *range(len(data) - 60, len(data))]:
        path.write_bytes(data[:size])
        assert "zip.truncated" in [problem.code for problem in verify(path)], size


def test_bytes_added_at_the_end_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.distillgan"
    for more in (b"\0", b"PK\5\6", bytes(70_000), (VALID / "plain.distillgan").read_bytes()):
        path.write_bytes((VALID / "plain.distillgan").read_bytes() + more)
        assert verify(path)


def test_several_problems_of_one_file_are_found_at_once(pair: Path) -> None:
    with Container.open(pair) as container:
        first = next(iter(container.tensors("vae").values()))
        last = list(container.tensors("vocoder").values())[-1]
        vae, vocoder = container.data_offset("vae"), container.data_offset("vocoder")
    flip(pair, vae + first.begin)
    flip(pair, vocoder + last.end - 1)
    flip(pair, pair.stat().st_size - 1)  # the end record
    found = {(problem.code, problem.where) for problem in verify(pair)}
    assert ("digest.tensor", f"vae.safetensors: {first.name}") in found
    assert ("digest.tensor", f"vocoder.safetensors: {last.name}") in found
    assert "zip.structure" in {code for code, _ in found} or "zip.truncated" in {code for code, _ in found}


def test_a_wrong_tensor_under_a_right_crc_is_found(pair: Path) -> None:
    with Container.open(pair) as container:
        spec = next(iter(container.tensors("vae").values()))
        at = container.data_offset("vae") + spec.begin
        entry = container.entry("vae.safetensors")
    flip(pair, at)
    import zlib

    data = bytearray(pair.read_bytes())
    crc = zlib.crc32(data[entry.offset : entry.offset + entry.size])
    old, new = struct.pack("<L", entry.crc), struct.pack("<L", crc)
    assert data.count(old) == 2
    pair.write_bytes(data.replace(old, new))
    assert [(p.code, p.where) for p in verify(pair)] == [("digest.tensor", f"vae.safetensors: {spec.name}")]


def test_a_flip_in_the_weights_gives_the_tensor_and_the_crc(pair: Path) -> None:
    with Container.open(pair) as container:
        spec = container.tensors("vae")["encoder.fc_mu.weight"]
        at = container.data_offset("vae") + spec.begin + 1000
    flip(pair, at)
    problems = verify(pair)
    assert {p.code for p in problems} == {"digest.tensor", "zip.crc"}
    assert problems[0].where == "vae.safetensors: encoder.fc_mu.weight"


def test_quick_leaves_the_weights_out_and_sees_the_rest(pair: Path) -> None:
    with Container.open(pair) as container:
        at, header = container.data_offset("vae"), container.entry("vae.safetensors").offset
    flip(pair, at + 5000)
    assert verify(pair, quick=True) == []
    flip(pair, header + 20)
    assert [p.code for p in verify(pair, quick=True)] == ["digest.header"]


def test_a_damaged_header_does_not_hide_damage_elsewhere(pair: Path) -> None:
    with Container.open(pair) as container:
        header = container.entry("vae.safetensors").offset
        vocoder = container.data_offset("vocoder")
    flip(pair, header + 20)
    flip(pair, vocoder)
    codes = [(p.code, p.where.partition(":")[0]) for p in verify(pair)]
    assert ("digest.header", "vae.safetensors") in codes
    assert ("digest.tensor", "vocoder.safetensors") in codes


def test_a_cut_in_the_vocoder_names_what_is_lost_and_the_vae_is_whole(pair: Path) -> None:
    with Container.open(pair) as container:
        end = container.entry("vocoder.safetensors").offset + 100_000
    with pair.open("r+b") as file:
        file.truncate(end)
    problems = verify(pair)
    assert {p.code for p in problems} == {"zip.truncated"}
    assert any(p.where.startswith("vocoder.safetensors") for p in problems)
    assert not any(p.where.startswith("vae") for p in problems)


def test_two_open_objects_that_are_wrong_are_both_named(tmp_path: Path) -> None:
    import sys

    sys.path.insert(0, str(FIXTURES))
    from _model import rewritten

    edits = [
        (b'{"batch_size":16}', b'{"batch_size": 16}'),
        (b'"latent_analysis":{}', b'"latent_analysis":{ }'),
    ]
    path = tmp_path / "a.distillgan"
    path.write_bytes(rewritten(*edits).bytes())
    found = {(p.code, p.where) for p in verify(path)}
    assert found == {("manifest.canonical", "training_config"), ("manifest.canonical", "latent_analysis")}


def test_progress_adds_up_to_what_is_read(real_pair: Path) -> None:
    told: list[int] = []
    assert verify(real_pair, progress=told.append) == []
    with Container.open(real_pair) as container:
        assert sum(told) == sum(entry.size for entry in container.entries)


def test_a_missing_file_is_an_error_and_not_a_finding(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        verify(tmp_path / "none.distillgan")


def test_a_problem_is_a_value_of_three_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.distillgan"
    path.write_bytes(b"hello")
    (problem,) = verify(path)
    assert isinstance(problem, Problem)
    assert problem == Problem("file.format", "", problem.message)
    assert not problem.message.endswith(".")


def test_a_file_with_an_empty_and_a_large_tensor_is_intact(tmp_path: Path) -> None:
    import torch

    state = {"empty": torch.empty(0, 3), "large": torch.arange(3_000_000), "one": torch.tensor(1.0)}
    path = save(tmp_path, state, vocoder_state=vocoder_state())
    assert verify(path) == []


def test_integrity_errors_name_component_and_tensor() -> None:
    error = IntegrityError("digest.tensor", "is wrong", where="vae: w", component="vae", tensor="w")
    assert (error.component, error.tensor) == ("vae", "w")
    assert str(error.at("f")) == "f: digest.tensor: vae: w: is wrong"


@pytest.mark.parametrize("error", [OSError("the disk is gone"), MemoryError(), KeyboardInterrupt()])
@pytest.mark.parametrize("thread", ["MainThread", "helper"])
def test_what_goes_wrong_in_either_thread_is_raised_and_no_damage_is_told(
    error: BaseException, thread: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = {"w": torch.ones(300_000)}
    path = save(tmp_path, state, vocoder_state={"type": "other", "state_dict": state})
    read_into, both_run = FileSource.read_into, threading.Barrier(2)

    def fail(self: FileSource, offset: int, buffer: memoryview) -> None:
        if offset % 4096 == 0 and len(buffer) == 4096:  # a header: the first bytes of either part
            both_run.wait(10)
        if (threading.current_thread() is threading.main_thread()) == (thread == "MainThread"):
            raise error
        read_into(self, offset, buffer)

    monkeypatch.setattr(FileSource, "read_into", fail)
    with pytest.raises(type(error)):
        verify(path)


def test_progress_is_told_by_one_thread_at_a_time(tmp_path: Path) -> None:
    state = {f"w{i}": torch.ones(100_000) for i in range(8)}
    path = save(tmp_path, state, vocoder_state={"type": "other", "state_dict": state})
    inside: list[int] = []
    counts = []

    def tell(count: int) -> None:
        inside.append(count)
        time.sleep(0.002)
        assert len(inside) == 1
        inside.pop()
        counts.append(count)

    assert verify(path, progress=tell) == []
    with Container.open(path) as container:
        assert sum(counts) == sum(entry.size for entry in container.entries)
