"""Files in use: replaced or deleted under a mapping, read-only libraries, many savers at once.

What is promised: a file that this library replaces or deletes stays readable to whoever has it
mapped. What is not: a file that another program truncates in place while it is mapped. The system
then ends the reader with SIGBUS, and nothing in the process can help; `mmap=False` is the way out
for folders where that happens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _library import write_model
from helpers import environment, flip, names_in, python
from torch_helpers import raw, save, small_state, vocoder_state

from distillgan import DistillganError, FormatError, read_manifest, verify
from distillgan.catalog import ModelLibrary, delete_model
from distillgan.edit import edit_metadata, kept, open_whole, rewrite, strip_vocoder
from distillgan.torch import attach_vocoder, load_model

HERE = Path(__file__).parent
OLD = {name: raw(tensor) for name, tensor in small_state().items()}
posix = pytest.mark.skipif(os.name == "nt", reason="Windows refuses to replace a file that is mapped")


@posix
@pytest.mark.parametrize("change", ["edit", "attach", "strip", "replace", "delete"])
def test_a_mapped_model_keeps_its_weights_whatever_happens_to_its_file(tmp_path: Path, change: str) -> None:
    path = save(tmp_path, vocoder_state=vocoder_state())
    loaded = load_model(path)
    touched = loaded.state_dict["conv.bias"]
    {
        "edit": lambda: edit_metadata(path, name="other"),
        "attach": lambda: attach_vocoder(path, vocoder_state(type="other")),
        "strip": lambda: strip_vocoder(path),
        "replace": lambda: save(tmp_path, {"conv.bias": touched + 1}, name="new").replace(path),
        "delete": lambda: delete_model(read_manifest(path).metadata.model_id, tmp_path),
    }[change]()
    assert {name: raw(loaded.state_dict[name]) for name in loaded.state_dict} == OLD
    assert raw(touched) == OLD["conv.bias"]
    assert loaded.vocoder_state is not None
    assert raw(loaded.vocoder_state["state_dict"]["conv_pre.weight_g"]) == raw(
        vocoder_state()["state_dict"]["conv_pre.weight_g"]
    )


def test_a_change_to_a_mapped_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    path = save(tmp_path)
    before = path.read_bytes()
    for tensor in load_model(path).state_dict.values():
        tensor.fill_(7)
    assert path.read_bytes() == before
    assert verify(path) == []


def test_a_model_that_is_read_and_not_mapped_survives_a_file_truncated_in_place(tmp_path: Path) -> None:
    path = save(tmp_path)
    loaded = load_model(path, mmap=False)
    os.truncate(path, 100)
    assert {name: raw(loaded.state_dict[name]) for name in loaded.state_dict} == OLD


@pytest.mark.skipif(sys.platform != "linux", reason="what a system does to such a mapping differs")
def test_a_mapped_file_truncated_in_place_ends_the_reader_and_is_not_promised_otherwise(
    tmp_path: Path,
) -> None:
    path = save(tmp_path)
    code = (
        "import os, sys; from distillgan.torch import load_model\n"
        "loaded = load_model(sys.argv[1]); os.truncate(sys.argv[1], 100)\n"
        "print(float(loaded.state_dict['conv.bias'].sum()))"
    )
    assert python(code, path).returncode == -signal.SIGBUS


def test_a_file_truncated_before_its_header_is_read_is_an_error_with_a_name(tmp_path: Path) -> None:
    path = save(tmp_path)
    for size in (0, 20, 100, 4096, 8000, path.stat().st_size - 1):
        shorter = tmp_path / "shorter.distillgan"
        shutil.copy(path, shorter)
        os.truncate(shorter, size)
        with pytest.raises(FormatError) as caught:
            load_model(shorter)
        assert caught.value.code == "zip.truncated"


@posix
@pytest.mark.parametrize("how", ["replaced", "changed in place"])
def test_an_edit_of_a_file_that_somebody_else_changes_meanwhile_is_refused(tmp_path: Path, how: str) -> None:
    path = save(tmp_path)
    other = save(tmp_path, name="other")

    with open_whole(path) as container:
        if how == "replaced":
            other.replace(path)
        else:
            flip(path, path.stat().st_size - 30)
            os.utime(path, ns=(1, 1))
        changed = path.read_bytes()
        with pytest.raises(DistillganError, match="changed by another program"):
            rewrite(container, lambda: container.manifest, kept(container))
    assert path.read_bytes() == changed
    assert not [name for name in names_in(tmp_path) if name.endswith(".tmp")]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_library_on_a_folder_that_becomes_read_only_is_listed_and_loaded(open_path: Path) -> None:
    folder = open_path / "library"
    write_model(folder / "a.distillgan", "a")
    ModelLibrary(folder)
    write_model(folder / "b.distillgan", "b")
    before = names_in(folder)
    with read_only(folder):
        done = as_nobody(
            "import sys; from distillgan.catalog import ModelLibrary\n"
            "from distillgan.edit import edit_metadata\n"
            "library = ModelLibrary(sys.argv[1]); library.refresh()\n"
            "print(sorted(e.model_id for e in library.list_all()), len(library.problems))\n"
            "try: edit_metadata(sys.argv[1] + '/a.distillgan', name='x')\n"
            "except OSError as error: print(type(error).__name__)\n"
            "try: library.delete('a')\n"
            "except OSError as error: print(type(error).__name__)\n",
            folder,
        )
    assert done.stdout.splitlines() == ["['a', 'b'] 0", "PermissionError", "PermissionError"], done.stderr
    assert names_in(folder) == before


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that every user may look into; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write to a folder and its files."""
    for path in folder.iterdir():
        os.chmod(path, 0o444)
    os.chmod(folder, 0o555)
    yield
    os.chmod(folder, 0o755)


def as_nobody(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that is not root's, for whom permissions count."""
    drop = "import os\nif os.geteuid() == 0:\n    import distillgan.catalog, distillgan.edit, filelock\n"
    drop += "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    return python(drop + code, *arguments)


@posix
def test_eight_processes_saving_one_name_ten_times_make_eighty_models(tmp_path: Path) -> None:
    save_at_once(tmp_path, processes=8, times=10)


@posix
@pytest.mark.stress
def test_sixteen_processes_saving_one_name_a_hundred_times_make_1600_models(tmp_path: Path) -> None:
    save_at_once(tmp_path, processes=16, times=100)


FORKED = """
import os, sys
from pathlib import Path
import torch, torch_helpers
from distillgan import ModelMetadata
folder, processes, times = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
gate_out, gate_in = os.pipe()
children = []
for process in range(processes):
    child = os.fork()
    if child == 0:
        os.close(gate_in)
        os.read(gate_out, 1)  # until the parent closes its end: all begin at once
        for number in range(times):
            torch_helpers.save(folder, {"w": torch.tensor([float(process), float(number)])},
                               metadata=ModelMetadata(model_id=f"{process}-{number}", name="Rain"))
        os._exit(0)
    children.append(child)
os.close(gate_in)
sys.exit(max(os.waitpid(child, 0)[1] for child in children) != 0)
"""


def save_at_once(folder: Path, *, processes: int, times: int) -> None:
    surroundings = environment()
    surroundings["PYTHONPATH"] += os.pathsep + str(HERE)
    command = [sys.executable, "-c", FORKED, str(folder), str(processes), str(times)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False, timeout=550)
    assert done.returncode == 0, done.stderr
    names = {f"rain{f'_{number}' if number else ''}.distillgan" for number in range(processes * times)}
    assert set(names_in(folder)) == names
    expected = {f"{p}-{n}": [float(p), float(n)] for p in range(processes) for n in range(times)}
    found = {}
    for name in names:
        loaded = load_model(folder / name, verify=True)
        found[loaded.metadata.model_id] = loaded.state_dict["w"].tolist()
    assert found == expected
    assert ModelLibrary(folder).count() == len(expected)
