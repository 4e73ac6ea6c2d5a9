"""A save happens or does not."""

from __future__ import annotations

import errno
import os
import signal
import stat
from pathlib import Path

import pytest
from helpers import names_in, python

from distillgan import _atomic
from distillgan.errors import DistillganError


def test_a_draft_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.distillgan"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), _atomic.draft(tmp_path) as draft:
        draft.file.write(b"new")
        raise KeyboardInterrupt
    assert names_in(tmp_path) == ["a.distillgan"]
    assert target.read_bytes() == b"old"


def test_a_draft_is_hidden_and_is_no_model_while_it_grows(tmp_path: Path) -> None:
    with _atomic.draft(tmp_path) as draft:
        assert draft.path.name.startswith(".")
        assert not draft.path.name.endswith(".distillgan")
        assert draft.path.parent == tmp_path
    assert names_in(tmp_path) == []


def test_replacing_keeps_the_permissions_of_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    target.chmod(0o640)
    with _atomic.draft(tmp_path) as draft:
        draft.file.write(b"new")
        draft.replace(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.read_bytes() == b"new"


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with _atomic.draft(tmp_path) as draft:
            draft.claim([tmp_path / "a"])
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_replacing_refuses_a_file_that_changed_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    expected = _atomic.identity(target)
    target.write_bytes(b"other")
    with pytest.raises(DistillganError, match="changed"), _atomic.draft(tmp_path) as draft:
        draft.replace(target, expected=expected)
    assert target.read_bytes() == b"other"
    assert names_in(tmp_path) == ["a"]


def test_replacing_refuses_a_file_that_was_deleted_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    expected = _atomic.identity(target)
    target.unlink()
    with pytest.raises((DistillganError, FileNotFoundError)), _atomic.draft(tmp_path) as draft:
        draft.replace(target, expected=expected)
    assert names_in(tmp_path) == []


def test_claiming_takes_the_first_free_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a_1").symlink_to("nowhere")  # a dangling link has the name too
    with _atomic.draft(tmp_path) as draft:
        draft.file.write(b"mine")
        taken = draft.claim([tmp_path / "a", tmp_path / "a_1", tmp_path / "a_2"])
    assert taken == tmp_path / "a_2"
    assert names_in(tmp_path) == ["a", "a_1", "a_2"]
    assert (tmp_path / "a").read_bytes() == b"1"


def test_claiming_a_taken_name_says_so_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(FileExistsError) as caught, _atomic.draft(tmp_path) as draft:
        draft.claim([tmp_path / "a"])
    assert caught.value.filename == str(tmp_path / "a")
    assert names_in(tmp_path) == ["a"]


def test_where_hard_links_do_not_work_a_name_is_claimed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links on this disk")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_bytes(b"1")
    with _atomic.draft(tmp_path) as draft:
        draft.file.write(b"mine")
        assert draft.claim([tmp_path / "a", tmp_path / "b"]) == tmp_path / "b"
    assert (tmp_path / "b").read_bytes() == b"mine"
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [n for n in names_in(tmp_path) if n.endswith(".tmp")] == []


@pytest.mark.parametrize("failure", [None, errno.EXDEV, errno.ENOSYS])
def test_a_range_is_copied_with_and_without_the_kernel(
    failure: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        assert failure is not None
        raise OSError(failure, "not here")

    if failure is not None:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    data = os.urandom(9_000_000)
    (tmp_path / "a").write_bytes(data)
    source = os.open(tmp_path / "a", os.O_RDONLY)
    with (tmp_path / "b").open("w+b") as file:
        file.write(b"before")
        _atomic.copy_range(source, 5, 8_999_000, file)
        file.write(b"after")
    os.close(source)
    assert (tmp_path / "b").read_bytes() == b"before" + data[5 : 5 + 8_999_000] + b"after"


def test_copying_from_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"short")
    source = os.open(tmp_path / "a", os.O_RDONLY)
    with (tmp_path / "b").open("w+b") as file, pytest.raises(DistillganError, match="shorter"):
        _atomic.copy_range(source, 0, 6, file)
    os.close(source)


SAVE = """
import sys, time
from pathlib import Path
from distillgan import _atomic
folder, start = Path(sys.argv[1]), float(sys.argv[2])
while time.time() < start:
    pass
for number in range(20):
    with _atomic.draft(folder) as draft:
        draft.file.write(sys.argv[3].encode())
        draft.claim(folder / f"a_{i}" for i in range(1000))
"""


def test_saves_of_one_name_in_eight_processes_end_as_as_many_files(tmp_path: Path) -> None:
    import subprocess
    import sys
    import time

    from helpers import environment

    start = str(time.time() + 1)
    command = [sys.executable, "-c", SAVE, str(tmp_path), start]
    running = [subprocess.Popen([*command, f"process {n}"], env=environment()) for n in range(8)]
    assert [process.wait(50) for process in running] == [0] * 8
    assert names_in(tmp_path) == sorted(f"a_{i}" for i in range(160))
    contents = sorted((tmp_path / name).read_text() for name in names_in(tmp_path))
    assert contents == sorted([f"process {n}" for n in range(8)] * 20)


RECIPE = """
import os, resource, signal, sys
from pathlib import Path
import msgspec
from distillgan import _safetensors, writer
from distillgan.manifest import Manifest, Vae
class Ramp:
    name, dtype, shape = "ramp", "U8", (20_000_000,)
    def data(self):
        return memoryview(bytes(20_000_000))
    def examine(self, data):
        pass
vae = writer.TensorContent([Ramp()], {})
metadata = msgspec.Raw(b'{"model_id":"1","name":"a","save_date":"2026"}')
def describe():
    return Manifest(format="distillgan_model", version=1, written_by="test", metadata_json=metadata,
        training_config_json=msgspec.Raw(b"{}"), vae=Vae(architecture="unknown", **vae.describe()))
target = Path(sys.argv[1])
contents = {"vae.safetensors": vae}
"""
FULL_DISK = (
    RECIPE
    + """
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
try:
    writer.create(target, describe, contents, force=True)
except OSError as error:
    sys.exit(error.strerror)
"""
)
KILLED = (
    RECIPE
    + """
writer.create(target, describe, contents, force=True,
    progress=lambda n: os.kill(os.getpid(), signal.SIGKILL))
"""
)
GOOD = RECIPE + "writer.create(target, describe, contents, force=True)"


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_the_old_file_or_nothing(exists: bool, tmp_path: Path) -> None:
    target = tmp_path / "a.distillgan"
    if exists:
        target.write_bytes(b"old")
    result = python(FULL_DISK, target)
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert names_in(tmp_path) == (["a.distillgan"] if exists else [])
    assert not exists or target.read_bytes() == b"old"


@pytest.mark.parametrize("exists", [True, False])
def test_a_kill_in_the_middle_leaves_the_old_file_or_nothing(exists: bool, tmp_path: Path) -> None:
    target = tmp_path / "a.distillgan"
    if exists:
        target.write_bytes(b"old")
    assert python(KILLED, target).returncode == -signal.SIGKILL
    assert target.exists() == exists
    assert not exists or target.read_bytes() == b"old"
    assert not [n for n in names_in(tmp_path) if n.endswith(".distillgan") and n != target.name]
    assert python(GOOD, target).returncode == 0
    assert target.stat().st_size > 20_000_000
