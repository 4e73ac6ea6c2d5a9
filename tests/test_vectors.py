"""Every conformance vector gets its verdict, at the door that its expectation names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from distillgan import Container, FormatError, read_manifest, verify

FIXTURES = Path(__file__).parent.parent / "fixtures"
sys.path.insert(0, str(FIXTURES))

import make_vectors  # noqa: E402

JSON = dict[str, Any]


def vectors(folder: str) -> list[Any]:
    """Each expectation of a folder, named as its vector."""
    found = sorted((FIXTURES / folder).glob("*.json"))
    return [pytest.param(FIXTURES / folder, json.loads(p.read_text("ascii")), id=p.stem) for p in found]


@pytest.mark.parametrize("folder", ["valid", "invalid"])
def test_the_vectors_are_there(folder: str) -> None:
    files = {p.name for p in (FIXTURES / folder).iterdir()}
    listed = {param.values[1]["file"] for param in vectors(folder)}
    assert len(listed) >= {"valid": 20, "invalid": 110}[folder]
    assert files == listed | {f"{name.partition('.')[0]}.json" for name in listed}


@pytest.mark.parametrize(("folder", "expected"), vectors("valid"))
def test_a_valid_vector_reads_as_expected(folder: Path, expected: JSON) -> None:
    check_valid(folder / expected["file"], expected)


@pytest.mark.parametrize(("folder", "expected"), vectors("invalid"))
def test_an_invalid_vector_is_refused_at_its_door(folder: Path, expected: JSON) -> None:
    check_invalid(folder / expected["file"], expected)


@pytest.mark.parametrize("size", ["small", pytest.param("large", marks=pytest.mark.stress)])
def test_the_vectors_made_on_demand_get_their_verdicts(size: str, tmp_path: Path) -> None:
    made = make_vectors.make_small(tmp_path) if size == "small" else make_vectors.make_large(tmp_path)
    wrong = [f"{path.name}: {said}" for path, expected in made if (said := complaint(path, expected))]
    assert made
    assert not wrong, "\n".join(wrong)


def test_the_script_makes_the_same_bytes_again(tmp_path: Path) -> None:
    make_vectors.make(tmp_path)
    for folder in ("valid", "invalid"):
        made = {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()}
        assert made == {p.name: p.read_bytes() for p in (FIXTURES / folder).iterdir()}


def test_the_script_does_not_use_the_library() -> None:
    sources = [p.read_text("utf-8") for p in FIXTURES.glob("*.py")]
    assert sources
    assert not any("import distillgan" in source or "from distillgan" in source for source in sources)


def complaint(path: Path, expected: JSON) -> str:
    """What is wrong with the verdict on one vector, or nothing."""
    try:
        (check_invalid if "code" in expected else check_valid)(path, expected)
    except (AssertionError, pytest.fail.Exception) as error:
        return str(error).partition("\n")[0]
    except Exception as error:  # a door that lets another library's exception out
        return f"{type(error).__name__}: {error}"
    return ""


def check_valid(path: Path, expected: JSON) -> None:
    """Every door accepts the file and sees what is expected."""
    assert verify(path) == []
    name = read_manifest(path).metadata.name
    with Container.open(path) as container:
        found = [
            {"name": e.name, "offset": e.offset, "size": e.size, "crc32": f"{e.crc:08x}"}
            for e in container.entries
        ]
        assert found == expected["members"]
        tensors = {component: container.tensors(component) for component in container.components}
    for component, records in expected["tensors"].items():
        check_tensors(tensors[component], records, expected["aliases"][component])
    assert set(tensors) == set(expected["aliases"])
    if "manifest" in expected:
        assert name == expected["manifest"]["metadata"]["name"]
    if "manifest" in expected and path.suffix != ".zst":
        assert stored_manifest(path, expected) == expected["manifest"]


def stored_manifest(path: Path, expected: JSON) -> JSON:
    """The manifest in a file that is not compressed."""
    first = expected["members"][0]
    with path.open("rb") as file:
        file.seek(first["offset"])
        return dict(json.loads(file.read(first["size"])))


def check_tensors(found: Any, records: JSON, aliases: dict[str, str]) -> None:
    """The specs of one component are those expected, aliases included."""
    for name, record in records.items():
        spec = found[name]
        assert spec.name == name
        assert [spec.dtype, list(spec.shape), [spec.begin, spec.end], spec.blake3] == [
            record["dtype"], record["shape"], record["data_offsets"], record["blake3"],
        ]  # fmt: skip
    for alias, stored in aliases.items():
        assert found[alias].name == stored
    assert not records or set(found) == set(records) | set(aliases)


def check_invalid(path: Path, expected: JSON) -> None:
    """The doors before the expected one accept, that one refuses, and so does every later one."""
    doors = {"manifest": read_manifest, "open": open_all}
    refusing = False
    for name, door in doors.items():
        refusing = refusing or name == expected["door"]
        assert code_of(door, path) == (expected["code"] if refusing else None), f"door {name}"
    assert expected["code"] in [problem.code for problem in verify(path)]


def open_all(path: Path) -> None:
    """Open a container and ask for the tensors of each component."""
    with Container.open(path) as container:
        for component in container.components:
            container.tensors(component)


def code_of(door: Any, path: Path) -> str | None:
    """The code with which a door refuses a file."""
    try:
        door(path)
    except FormatError as error:
        assert error.path is not None
        return error.code
    return None
