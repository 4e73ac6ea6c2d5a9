"""Several processes in one library, and processes that are killed: nothing lost, the index whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _library import model_bytes, write_model

from distillgan._index import INDEX_NAME
from distillgan.catalog import ModelLibrary, delete_model

HERE = Path(__file__).parent


def start(folder: Path, name: str, rounds: int) -> subprocess.Popen[str]:
    """A process that does `rounds` rounds of work and has begun to."""
    path = os.pathsep.join(map(str, (HERE.parent, HERE.parent / "cli", HERE)))
    script = "import sys; from _library import work; work(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), name, str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.distillgan")}


def indexed(folder: Path) -> set[str]:
    """The files of the index, which is valid at any moment."""
    index = json.loads((folder / INDEX_NAME).read_bytes())
    assert index["version"] == 2
    return {entry["file_path"] for entry in index["models"].values()}


def listed(library: ModelLibrary) -> set[tuple[str, str]]:
    return {(entry.file_path, entry.state) for entry in library.list_all()}


def test_processes_that_add_delete_and_refresh_at_once_lose_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "kept.distillgan", "kept")
    held = ModelLibrary(tmp_path)
    workers = [start(tmp_path, name, 30) for name in ("a", "b", "c")]
    looks = 0
    while any(worker.poll() is None for worker in workers):
        indexed(tmp_path)
        looks += 1
    for worker in workers:
        assert worker.wait() == 0, worker.communicate()[1]
        worker.communicate()
    assert looks > 10
    expected = {"kept.distillgan"} | {f"{n}-{i}.distillgan" for n in "abc" for i in range(30) if i % 3}
    assert files_of(tmp_path) == expected
    assert indexed(tmp_path) == expected
    held.refresh()
    assert listed(held) == listed(ModelLibrary(tmp_path)) == {(path, "ok") for path in expected}


def test_two_libraries_that_delete_the_same_model_delete_it_once(tmp_path: Path) -> None:
    write_model(tmp_path / "m.distillgan", "id")
    first, second = ModelLibrary(tmp_path), ModelLibrary(tmp_path)
    assert (first.delete("id"), second.delete("id")) == (True, False)
    assert listed(second) == listed(ModelLibrary(tmp_path)) == set()


def test_a_held_library_learns_from_the_index_what_another_repaired(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path / f"{name}.distillgan", name)
    held = ModelLibrary(tmp_path)
    (tmp_path / "a.distillgan").unlink()
    held.refresh()
    assert ModelLibrary(tmp_path).repair_index() == (1, 0)
    write_model(tmp_path / "c.distillgan", "c")
    held.refresh()
    expected = {("b.distillgan", "ok"), ("c.distillgan", "ok")}
    assert listed(held) == listed(ModelLibrary(tmp_path)) == expected


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_a_process_killed_at_any_moment_leaves_a_library_that_is_whole(tmp_path: Path) -> None:
    chance = random.Random(7)
    write_model(tmp_path / "kept.distillgan", "kept")
    ModelLibrary(tmp_path)
    for round_number in range(15):
        worker = start(tmp_path, f"w{round_number % 3}", 10**6)
        time.sleep(chance.random() * 0.08)
        worker.kill()
        worker.communicate()
        indexed(tmp_path)
        expected = {(name, "ok") for name in files_of(tmp_path)}
        library = ModelLibrary(tmp_path)
        assert ("kept.distillgan", "ok") in expected
        assert listed(library) == expected
        assert library.problems == []
        assert indexed(tmp_path) == files_of(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", ["draft", "library_lock", "unlink"])
def test_a_delete_that_dies_between_two_steps_leaves_a_file_that_is_listed_or_gone(
    tmp_path: Path, step: str
) -> None:
    path = write_model(tmp_path / "m.distillgan", "id")
    ModelLibrary(tmp_path)
    script = (
        "import os, sys; from distillgan import _atomic, catalog\n"
        "def die(*a, **k): os._exit(9)\n"
        "lib = catalog.ModelLibrary(sys.argv[1])\n"
        "setattr(os if sys.argv[2] == 'unlink' else _atomic, sys.argv[2], die)\n"
        "lib.delete('id')"
    )
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-c", script, str(tmp_path), step]
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert path.read_bytes() == model_bytes("id")
    assert listed(ModelLibrary(tmp_path)) == {("m.distillgan", "ok")}
    assert delete_model("id", tmp_path)
