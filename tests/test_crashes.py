"""Killed or failing at any moment: the old content or the new, never neither, and nothing is lost.

SIGKILL comes from outside at random moments. Failures come from the system where it can be made to
fail (RLIMIT_FSIZE, a file system of a few kB), and from each call in turn where it cannot.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _library import model_bytes
from helpers import environment, names_in
from torch_helpers import conv_vae, raw, save, small_state, vocoder_state

from distillgan import DistillganError, read_manifest, verify
from distillgan.catalog import ModelLibrary
from distillgan.edit import edit_metadata, strip_vocoder
from distillgan.torch import attach_vocoder, load_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL, fork and limits are POSIX's")

HERE = Path(__file__).parent
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
NAMES = ("Rain", "Hail")
# Forks a worker for each line on stdin and says its number, so that a thousand workers import once.
ZYGOTE = """
import logging, os, sys
import test_crashes
logging.disable()
for line in sys.stdin:
    folder, number = line.split()
    child = os.fork()
    if child == 0:
        test_crashes.work(folder, int(number))
    print(child, flush=True)
    while os.waitpid(child, 0)[0] != child:
        pass
"""


def work(folder: str, number: int) -> None:
    """Save, edit, attach, strip and list for ever, until somebody kills this process."""
    home, chance = Path(folder), random.Random(number)
    while True:
        action = chance.randrange(5)
        if action == 0:
            save(home, name=f"new {number}")
        elif action == 1:
            edit_metadata(home / "kept.distillgan", name=chance.choice(NAMES))
        elif action == 2:
            attach_vocoder(home / "kept.distillgan", vocoder_state())
        elif action == 3:
            strip_vocoder(home / "kept.distillgan")
        else:
            ModelLibrary(home).refresh()


def test_a_process_killed_at_hundreds_of_moments_leaves_everything_whole(tmp_path: Path) -> None:
    kill_often(tmp_path, 200)


@pytest.mark.stress
def test_a_process_killed_at_thousands_of_moments_leaves_everything_whole(tmp_path: Path) -> None:
    kill_often(tmp_path, 5000)


def kill_often(folder: Path, times: int) -> None:
    prepare(folder)
    chance, interrupted = random.Random(times), 0
    with zygote() as fork:
        for number in range(times):
            worker = fork(folder, number)
            time.sleep(chance.random() ** 2 * 0.06)
            os.kill(worker, signal.SIGKILL)
            check_kept(folder / "kept.distillgan")
            if number % 10 == 0:
                check_folder(folder)
                interrupted += clear(folder)
    check_folder(folder)
    assert interrupted >= times // 20, "hardly a kill came while something was written"


def prepare(folder: Path) -> None:
    """A library of two models, one of which the workers change."""
    save(folder, name="kept").replace(folder / "kept.distillgan")
    edit_metadata(folder / "kept.distillgan", name=NAMES[0])
    (folder / "other.distillgan").write_bytes(model_bytes("other"))
    ModelLibrary(folder)


def check_kept(path: Path) -> None:
    """The model that is changed all the time is whole, in one of its states, with the weights it had."""
    assert verify(path) == []
    manifest = read_manifest(path)
    assert manifest.metadata.name in NAMES
    state = load_model(path, verify=True).state_dict
    assert {name: raw(state[name]) for name in state} == {n: raw(t) for n, t in small_state().items()}


def check_folder(folder: Path) -> None:
    """Every file is whole, the index can be read, and the library lists exactly the files."""
    files = {path.name for path in folder.glob("*.distillgan")}
    assert {"kept.distillgan", "other.distillgan"} <= files
    assert not [name for name in files if verify(folder / name)]
    json.loads((folder / "model_library.json").read_bytes())
    library = ModelLibrary(folder)
    assert {entry.file_path for entry in library.list_all() if entry.state != "missing"} == files
    assert library.problems == []


def clear(folder: Path) -> int:
    """Take away what killed workers saved and left, so that the folder does not grow; count the latter."""
    left = [name for name in names_in(folder) if name.endswith(".tmp")]
    for name in (*left, *(name for name in names_in(folder) if name.startswith("new_"))):
        (folder / name).unlink()
    return len(left)


@contextlib.contextmanager
def zygote() -> Iterator[Callable[[Path, int], int]]:
    """A function that starts a worker and returns its process number."""
    options: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    surroundings = environment()
    surroundings["PYTHONPATH"] += os.pathsep + str(HERE)
    process = subprocess.Popen([sys.executable, "-c", ZYGOTE], env=surroundings, **options)

    def fork(folder: Path, number: int) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        print(folder, number, file=process.stdin, flush=True)
        return int(process.stdout.readline())

    with process:
        try:
            yield fork
        finally:
            process.kill()


ACTIONS: dict[str, Callable[[Path], object]] = {
    "save": lambda folder: save(folder, name="new"),
    "save with a vocoder": lambda folder: save(folder, name="new", vocoder_state=vocoder_state()),
    "edit": lambda folder: edit_metadata(folder / "kept.distillgan", name=NAMES[1]),
    "attach": lambda folder: attach_vocoder(folder / "kept.distillgan", vocoder_state()),
    "index": lambda folder: ModelLibrary(folder).repair_index(),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("call", ["fsync", "link", "replace", "writev", "copy_file_range", "open", "chmod"])
def test_each_call_that_fails_leaves_the_old_content_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, call: str
) -> None:
    for number in range(40):
        code = ERRORS[number % len(ERRORS)]
        folder = tmp_path / str(number)
        folder.mkdir()
        prepare(folder)
        with monkeypatch.context() as patch:
            failed = fail_once(patch, call, number, code)
            outcome = attempt(ACTIONS[action], folder)
        check_after(folder, outcome)
        if not failed:
            return
    raise AssertionError("the action makes more calls than were tried")


@pytest.mark.parametrize("action", ACTIONS)
def test_a_file_size_limit_leaves_the_old_content_and_no_temporary_file(tmp_path: Path, action: str) -> None:
    prepare(tmp_path)
    before = contents(tmp_path)
    for limit in (0, 1, 100, 4096, 8000, 8200, 8400):
        with file_size_limit(limit):
            outcome = attempt(ACTIONS[action], tmp_path)
        if outcome is None:
            return  # small enough: nothing failed
        check_after(tmp_path, outcome)
        assert contents(tmp_path) == before
    assert action != "index"


@pytest.mark.parametrize("action", ACTIONS)
def test_a_full_disk_leaves_the_old_content_and_no_temporary_file(tmp_path: Path, action: str) -> None:
    for kilobytes in (0, 4, 8, 12):
        with full_disk(tmp_path / "disk", kilobytes) as folder:
            before = contents(folder)
            outcome = attempt(ACTIONS[action], folder)
            check_after(folder, outcome)
            if outcome is not None:
                assert contents(folder) == before


def test_a_large_model_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", 300) as folder:
        outcome = attempt(lambda f: save(f, conv_vae(32).state_dict(), name="large"), folder)
        assert isinstance(outcome, OSError)
        assert outcome.errno == errno.ENOSPC
        check_after(folder, outcome)


def fail_once(patch: pytest.MonkeyPatch, call: str, number: int, code: int) -> list[int]:
    """Let the call of that number, counted from 0, fail; the list says whether it came to that."""
    original, count, failed = getattr(os, call), iter(range(10**6)), []

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(count) == number:
            failed.append(code)
            raise OSError(code, os.strerror(code))
        return original(*arguments, **options)

    patch.setattr(os, call, failing)
    return failed


def attempt(action: Callable[[Path], object], folder: Path) -> Exception | None:
    try:
        action(folder)
    except (OSError, DistillganError) as error:
        return error
    return None


def check_after(folder: Path, outcome: Exception | None) -> None:
    """Whatever came of it, both models are whole and nothing temporary is left."""
    left = [name for name in names_in(folder) if name.endswith(".tmp")]
    assert not left, f"left after {outcome!r}"
    check_kept(folder / "kept.distillgan")
    assert (folder / "other.distillgan").read_bytes() == model_bytes("other")
    new = folder / "new.distillgan"
    assert not new.exists() or verify(new) == []
    assert {"kept.distillgan", "other.distillgan"} <= {e.file_path for e in ModelLibrary(folder).list_all()}


def contents(folder: Path) -> dict[str, bytes]:
    """The models of a folder; the index is a cache."""
    return {path.name: path.read_bytes() for path in folder.glob("*.distillgan")}


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may become larger than `size` bytes: the system's own EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def full_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A library on a file system of its own with that much room left, in memory."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        prepare(folder)
        fill(folder, kilobytes)
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, kilobytes: int) -> None:
    """Use up a file system but for that much."""
    status = os.statvfs(folder)
    size = status.f_bavail * status.f_frsize - kilobytes * 1024
    with (folder / "filler").open("wb") as file:
        file.write(bytes(size))
