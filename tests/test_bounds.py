"""Hostile files opened under a memory limit and a time limit: neither is ever needed.

A child process sets RLIMIT_AS to what it has, the file's size and 64 MB more, and gives each file to
every door. An answer is a result or a FormatError; the processor time of each is less than a second.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from helpers import FIXTURES, environment

sys.path.insert(0, str(FIXTURES))

import make_vectors
from _model import JSON, Model, edited, frame, other, rewritten, small
from _zstd import frame as zst

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")

MIB = 1 << 20
MOST_TIME = 3.0  # seconds of processor time: the slowest takes half of one on an idle machine
CHILD = """
import gc, json, os, resource, signal, sys, time
import distillgan
from distillgan import Container, _transport, read_manifest, verify
from distillgan.pairing import pairing_of
from distillgan.torch import load_model

def tensors(path):
    with Container.open(path) as container:
        for name in container.components:
            container.tensors(name)

def load(path):
    loaded = load_model(path)
    dict(loaded.state_dict), loaded.analysis, loaded.metadata, loaded.training_config
    if loaded.vocoder_state is not None:
        dict(loaded.vocoder_state["state_dict"])

def pair(path):
    with Container.open(path) as container:
        return pairing_of(container)

def check(path):
    return verify(path, quick=os.path.isfile(path) and os.path.getsize(path) > 1 << 30)

def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

def late(*_):
    raise TimeoutError("stopped after 5 s of processor time")

signal.signal(signal.SIGPROF, late)
gc.freeze()

def judge(door, path, most):
    gc.collect()
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + most, resource.RLIM_INFINITY))
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 5)
    try:
        door(path)
        said = ""
    except distillgan.DistillganError as error:
        said = "" if len(str(error)) < 2000 else f"a message of {len(str(error))} characters"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"[:300]
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - begin
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return said, seconds

for path, most in json.load(sys.stdin):
    for door in (read_manifest, tensors, pair, check, load):
        said, seconds = judge(door, path, most)
        print(json.dumps([os.path.basename(path), door.__name__, said, seconds]), flush=True)
"""


def test_the_kept_vectors_stay_in_bounds() -> None:
    files = [path for path in FIXTURES.glob("*valid/*") if path.suffix != ".json"]
    assert len(files) > 140
    check(files)


def test_the_vectors_made_on_demand_stay_in_bounds(tmp_path: Path) -> None:
    check([path for path, _ in make_vectors.make_small(tmp_path)])


@pytest.mark.stress
def test_files_of_4_gib_stay_in_bounds(tmp_path: Path) -> None:
    check([path for path, _ in make_vectors.make_large(tmp_path)])


def check(files: list[Path]) -> None:
    """No file makes a door run out of memory or time, or fail otherwise than with our own error."""
    wrong = [answer for answer in answers_to(files) if is_wrong(answer)]
    assert not wrong, "\n".join(map(str, wrong))


def answers_to(files: list[Path]) -> list[Any]:
    """(file, door, complaint, seconds) of each door for each file."""
    work = [(str(path), allowance(path)) for path in files]
    one_arena = environment() | {"MALLOC_ARENA_MAX": "1"}  # glibc reserves 64 MB for each thread's heap
    command = [sys.executable, "-c", CHILD]
    options: Any = {"capture_output": True, "text": True, "timeout": 300, "check": False}
    done = subprocess.run(command, input=json.dumps(work), env=one_arena, **options)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 5 * len(files), done.stderr
    return answers


def is_wrong(answer: list[Any]) -> bool:
    _, _, complaint, seconds = answer
    return bool(complaint) or seconds > MOST_TIME


def allowance(path: Path) -> int:
    """Bytes that opening a file may take: its size and 64 MB, in memory or mapped.

    A transport file has in place of its size what it may declare, and zstd's window.
    """
    size = path.stat().st_size if path.is_file() else 0
    if path.suffix == ".zst":
        return 64 * MIB + 16 * size + 64 * MIB
    return size + 64 * MIB


def header_of(records: str, metadata: str = "") -> Model:
    """A model whose VAE has this JSON of tensors, and one digest; the sizes and digests fit."""
    text = f'{{"__metadata__":{{"format":"pt","blake3":"{"0" * 64}"{metadata}}},{records}}}'
    part = small()
    part.header, part.data, part.records = frame(text.encode()), b"", {}
    return Model(vae=part)


def shape(count: int, size: int = 2**63 - 1) -> Model:
    sizes = ",".join([str(size)] * count)
    return header_of(f'"a":{{"dtype":"U8","shape":[{sizes}],"data_offsets":[0,0]}}')


def many_tensors() -> Model:
    count = 40_000
    records = ",".join(f'"a{i:05}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(count))
    model = header_of(records)
    text = model.vae.header[8:].rstrip(b" ")
    digests = blake3(b"").hexdigest().encode() * count
    model.vae.header = frame(text.replace(b"0" * 64, digests))
    model.manifest["vae"] |= model.vae.section() | {"tensors": count}
    return model


def many_aliases() -> Model:
    aliases = "".join(f',"alias:b{i:06}":"a"' for i in range(300_000))
    return header_of('"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}', aliases)


def sized(data_bytes: int, header_bytes: int) -> Model:
    """A manifest that puts the vocoder beyond what a file offset can say."""

    def edit(manifest: JSON) -> None:
        manifest["vae"] |= {"data_bytes": data_bytes, "header_bytes": header_bytes}

    return edited(edit, vocoder=other())


def analysis(dtype: Any, sizes: Any) -> Model:
    def edit(manifest: JSON) -> None:
        manifest["latent_analysis"] = {"mean": {"dtype": dtype, "shape": sizes, "base64": "AAAA"}}

    return edited(edit)


def upsampling(rates: list[int]) -> Model:
    def edit(manifest: JSON) -> None:
        manifest["vocoder"]["config"] = {"upsample_rates": rates}

    return edited(edit, vocoder=other())


def strange_zip(method: int, payload: bytes, name: bytes = b"x/data.pkl") -> bytes:
    """A ZIP that might be one of torch's, its one member compressed somehow."""
    about = (63, 0, method, 0, 33, 0, len(payload), 100)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", *about, len(name), 0) + name
    record = struct.pack("<4s6H3I5H2I", b"PK\1\2", 63, *about, len(name), 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(record), len(local) + len(payload), 0)
    return local + payload + record + end


def lzma(dictionary: int) -> bytes:
    return struct.pack("<BBHBI", 9, 4, 5, 93, dictionary) + b"\xff" * 50


def crowded_zip(count: int) -> bytes:
    """A ZIP with a directory of that many members and nothing else."""
    record = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(record) * count, 44, 0)
    return b"PK\3\4" + bytes(40) + record * count + end


HOSTILE: dict[str, Callable[[], bytes | Model]] = {
    "a-shape-of-300-large-sizes": lambda: shape(300),
    "a-shape-of-30000-large-sizes": lambda: shape(30_000),
    "a-shape-of-2000000-small-sizes": lambda: shape(2_000_000, 3),
    "a-shape-of-300-large-sizes.zst": lambda: zst(shape(300).bytes()),
    "40000-tensors": many_tensors,
    "300000-aliases": many_aliases,
    "a-dtype-of-a-million-letters": lambda: header_of(
        f'"a":{{"dtype":"{"U" * 10**6}","shape":[0],"data_offsets":[0,0]}}'
    ),
    "a-tensor-name-of-a-million-letters": lambda: header_of(
        f'"{"a" * 10**6}":{{"dtype":"U8","shape":[1],"data_offsets":[0,0]}}'
    ),
    "a-vocoder-behind-2-63": lambda: sized(2**63 - 1, 4096),
    "a-vocoder-behind-2-64": lambda: sized(2**63 - 1, 2**63 - 1),
    "a-version-of-500000-letters": lambda: rewritten(
        (b'"version":1', b'"version":"' + b"x" * 500_000 + b'"')
    ),
    "a-key-of-500000-letters": lambda: rewritten((b'"batch_size":16', b'"' + b"x" * 500_000 + b'":1e999')),
    "an-unknown-key-of-500000-letters": lambda: rewritten(
        (b'"version":1', b'"version":1,"' + b"x" * 500_000 + b'":1')
    ),
    "zeros-below-a-key-of-500000-letters": lambda: rewritten(
        (b'"batch_size":16', b'"' + b"k" * 500_000 + b'":[' + b"0," * 250_000 + b"0]")
    ),
    "50000-upsampling-rates": lambda: upsampling([2**63 - 1] * 50_000),
    "500000-unknown-values": lambda: rewritten((b'"batch_size":16', b'"x":[' + b"1," * 500_000 + b"1]")),
    "an-analysis-of-an-unclosed-dtype": lambda: analysis("(1,", [3]),
    "an-analysis-of-an-old-dtype": lambda: analysis("a10", [3]),
    "an-analysis-of-a-large-shape": lambda: analysis("int8", [2**63 - 1, 2**63 - 1]),
    "an-analysis-of-a-negative-shape": lambda: analysis("int8", [-1]),
    "a-zip-with-damaged-lzma": lambda: strange_zip(14, lzma(1 << 20)),
    "a-zip-with-an-lzma-dictionary-of-4-gib": lambda: strange_zip(14, lzma(0xFFFFFFFF)),
    "a-zip-with-an-lzma-of-no-options": lambda: strange_zip(14, struct.pack("<BBH", 9, 4, 5) + b"\xff" * 50),
    "a-zip-with-damaged-bzip2": lambda: strange_zip(12, b"BZh9" + bytes(50)),
    "a-zip-with-an-unknown-method": lambda: strange_zip(99, bytes(50)),
    "a-zip-of-500000-members": lambda: crowded_zip(500_000),
    "a-pickle-of-4-mib": lambda: b"\x80\x02distill" + b"0" * 4 * MIB,
    "a-pickle-of-a-million-names": lambda: b"\x80\x02X\x07\0\0\0distill" + b"ca\nb\n" * 700_000,
    "a-pickle-of-bad-escapes": lambda: b"\x80\x02S'distill" + b"\\d" * 1000 + b"'\n.",
    "a-pickle-of-a-long-number": lambda: b"\x80\x02S'distill'\nL" + b"9" * 3_000_000 + b"L\n.",
    "64-mib-of-zeros.zst": lambda: zst(bytes(63 * MIB), window=23, digest=0),
}


def test_hostile_files_stay_in_bounds(tmp_path: Path) -> None:
    for name, make in HOSTILE.items():
        made = make()
        (tmp_path / file_name(name)).write_bytes(made if isinstance(made, bytes) else made.bytes())
    check(sorted(tmp_path.iterdir()))


def file_name(name: str) -> str:
    stem, _, suffix = name.partition(".")
    return f"{stem}.distillgan" + (f".{suffix}" if suffix else "")
