"""FORMAT.md says what the code does: every code, limit, field and constant, in both directions.

Run as a script, it writes `manifest.schema.json` anew.
"""

from __future__ import annotations

import ast
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distillgan import _archive, _safetensors, _transport, manifest, signature
from distillgan._index import MAX_INDEX
from distillgan.container import COMPONENTS, PREVIEW_NAME, SIGNATURE_NAME, entry_name

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "FORMAT.md").read_text("utf-8")
SCHEMA = ROOT / "manifest.schema.json"
MIB = 1024 * 1024
CARRIERS = {"FormatError", "IntegrityError", "UnsupportedVersionError", "Problem", "Flaw"}
CODE = re.compile(r"[a-z0-9]+\.[a-z0-9]+")


def test_the_table_of_codes_has_every_code_and_no_other() -> None:
    listed = [row[0].strip("`") for row in table("Error codes")]
    assert len(listed) == len(set(listed))
    assert set(listed) == codes_in_the_code()


def test_every_code_has_a_meaning_a_cause_and_a_cure() -> None:
    assert all(len(row) == 4 and all(row) for row in table("Error codes"))


def test_every_code_of_a_vector_is_listed() -> None:
    vectors = (ROOT / "fixtures" / "invalid").glob("*.json")
    found = {json.loads(path.read_text("ascii"))["code"] for path in vectors}
    assert found
    assert found <= {row[0].strip("`") for row in table("Error codes")}


def test_the_limits_are_those_of_the_code() -> None:
    assert dict(table("Limits")) == {
        "`manifest.json`": mib(manifest.MAX_MANIFEST),
        "nesting of an open object in the manifest": f"{manifest.MAX_DEPTH} levels",
        "an integer in the manifest": f"±2^{manifest._MAX_INTEGER.bit_length() - 1}",
        "a safetensors header, its 8 length bytes included": mib(_safetensors.MAX_HEADER),
        "a dimension of a tensor": "2^63 − 1",
        "`preview.flac`": mib(manifest.MAX_PREVIEW),
        "`manifest.json.sig`": f"{signature.MAX_ARMOR // 1024} KiB",
        "window of the transport form": mib(_transport.MAX_WINDOW),
        "content of the transport form": f"{mib(_transport._bound(0))} + "
        f"{_transport._bound(1) - _transport._bound(0)} × the frame's size",
    }
    assert f"`model_library.json` is above {mib(MAX_INDEX)}" in PAGE


def test_a_dimension_is_bounded_as_the_page_says() -> None:
    largest = [_safetensors.TensorSpec("a", "U8", (2**63 - 1, 0), 0, 0, "0" * 64)]
    above = [_safetensors.TensorSpec("a", "U8", (2**63, 0), 0, 0, "0" * 64)]
    assert (
        _safetensors.decode_header(_safetensors.encode_header(largest, {})).tensors["a"].shape[0] == 2**63 - 1
    )
    with pytest.raises(manifest.FormatError, match=r"safetensors\.json"):
        _safetensors.decode_header(_safetensors.encode_header(above, {}))


@pytest.mark.parametrize("record", ["Local header", "Central record", "End record"])
@pytest.mark.parametrize("large", [False, True])
def test_the_tables_of_the_zip_profile_are_what_is_written(record: str, large: bool) -> None:
    raw = records(5 * 1024**3 if large else 5)[record]
    for at, size, field, value in bold_table(record):
        found = int.from_bytes(raw[int(at) : int(at) + int(size)], "little")
        allowed = [int(number, 0) for number in re.findall(r"(?:^|or )(0x[0-9A-F]+|\d+)\b", value)]
        if not large and len(allowed) == 2:
            allowed = allowed[:1]
        if not value.startswith(("of the", "or ", "the ")) and allowed:
            assert found in allowed, f"{field}: {found:#x}"
        elif large and "0xFFFFFFFF" in value:
            assert found == 0xFFFFFFFF, field


def test_zip64_is_written_as_the_page_says() -> None:
    big = 5 * 1024**3
    found = _archive.layout([("manifest.json", 2, 0), ("vae.safetensors", big, 0), (PREVIEW_NAME, 7, 0)])
    local, after = found.headers[1], found.headers[2]
    assert struct.unpack_from("<2H2Q", local, 30 + len("vae.safetensors")) == (1, 16, big, big)
    assert (local[4], after[4]) == (45, 20)
    preview = found.tail[found.tail.rindex(b"PK\1\2") :]
    place = found.entries[2].offset - len(after)
    assert struct.unpack_from("<2HQ", preview, 46 + len(PREVIEW_NAME)) == (1, 8, place)
    end64 = found.tail[found.tail.index(b"PK\6\6") :]
    assert struct.unpack_from("<LQ2H", end64) == (0x06064B50, 44, 0x0314, 45)


def test_the_members_are_those_of_the_code() -> None:
    components = [entry_name(component) for component in COMPONENTS]
    names = [_archive.FIRST_NAME, *components, PREVIEW_NAME, SIGNATURE_NAME]
    assert [row[0].strip("`") for row in table("Members")] == names


def test_the_dtypes_are_those_of_the_code() -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("- Dtypes:"))
    assert set(re.findall(r"`(\w+)`", line)) == set(_safetensors.ITEM_SIZE)


def test_the_fields_of_the_manifest_are_those_of_the_code() -> None:
    rows = table("Manifest")
    schema = manifest.json_schema()["$defs"]["Manifest"]
    assert [row[0].strip("`") for row in rows] == list(manifest.Manifest.__struct_encode_fields__)
    assert {row[0].strip("`") for row in rows if row[1] == "yes"} == set(schema["required"])


def test_the_fields_of_the_metadata_are_those_of_the_code() -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith("`metadata` has, in this order"))
    named = re.findall(r"`(\w+)`", line)[1:]
    schema = manifest.json_schema()["$defs"]["Manifest"]["properties"]["metadata"]
    assert named == list(schema["properties"])


@pytest.mark.parametrize("text", ["0.00001", "100.0", "1e-6", "1.5e300", "1e16"])
def test_floats_are_spelled_as_the_page_says(text: str) -> None:
    assert bytes(manifest.encode_object({"x": float(text)}, "x")) == b'{"x":%s}' % text.encode()
    assert f"`{text}`" in PAGE or text == "1e16"


def test_the_schema_beside_the_page_is_the_one_of_the_types() -> None:
    assert SCHEMA.read_text("utf-8") == schema_text(), "run: python tests/test_format_page.py"


def test_the_schema_accepts_every_valid_vector_and_a_spoiled_one_not() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    validator.check_schema(validator.schema)
    expectations = [json.loads(p.read_text("ascii")) for p in (ROOT / "fixtures" / "valid").glob("*.json")]
    documents = [expected["manifest"] for expected in expectations if "manifest" in expected]
    assert documents
    assert not [error for document in documents for error in validator.iter_errors(document)]
    for spoiled in ({"version": 2}, {"extra": 1}, {"vae": {}}, {"metadata": {}}, {"vocoder": None}):
        assert not validator.is_valid(documents[0] | spoiled), spoiled


def mib(size: int) -> str:
    """A size as the page writes it."""
    assert size % MIB == 0
    return f"{size // MIB} MiB"


def schema_text() -> str:
    """What `manifest.schema.json` holds."""
    return json.dumps(manifest.json_schema(), indent=2) + "\n"


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, its own header left out."""
    return rows_after(f"## {heading}\n")


def bold_table(title: str) -> list[list[str]]:
    """The rows of the table that a bold title introduces."""
    return rows_after(f"**{title}**")


def rows_after(mark: str) -> list[list[str]]:
    lines = PAGE[PAGE.index(mark) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return [[cell.strip(" |") for cell in row] for row in rows]


def records(size: int) -> dict[str, bytes]:
    """The last record of each kind in an archive with a member of that size before it."""
    made = _archive.layout([("vae.safetensors", size, 0), ("vocoder.safetensors", size, 0)])
    return {
        "Local header": made.headers[-1],
        "Central record": made.tail[made.tail.rindex(b"PK\1\2") :],
        "End record": made.tail[-22:],
    }


def codes_in_the_code() -> set[str]:
    """Every code that the sources give to an error or a problem."""
    found: set[str] = set()
    for path in sorted([*(ROOT / "distillgan").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]):
        module = Module(ast.parse(path.read_text("utf-8")), path)
        found.update(module.codes())
    return found


class Module:
    """The calls of a module that carry a code, and what their first argument may be."""

    def __init__(self, tree: ast.Module, path: Path):
        self.path = path
        self.functions: dict[ast.AST, ast.AST] = {}  # every node: the function that it stands in
        self.nodes = list(ast.walk(tree))
        self.tree = tree
        for function in self.nodes:
            if isinstance(function, ast.FunctionDef):
                self.functions.update(dict.fromkeys(ast.walk(function), function))

    def codes(self) -> Iterator[str]:
        for node in self.nodes:
            if isinstance(node, ast.Call) and node.args and self._carries(node):
                found = list(self._resolve(node.args[0]))
                wrong = [text for text in found if not CODE.fullmatch(text)]
                assert not wrong, f"{self.path}:{node.lineno}: not a code: {wrong}"
                yield from found

    def _carries(self, call: ast.Call) -> bool:
        function = call.func
        if isinstance(function, ast.Name):
            return function.id in CARRIERS
        inside = ast.unparse(function) == "super().__init__"
        first = call.args[0]
        return inside and isinstance(first, ast.Constant) and bool(CODE.fullmatch(str(first.value)))

    def _resolve(self, node: ast.expr) -> Iterator[str]:
        """The texts that an expression may stand for; an error's own `.code` adds none."""
        if isinstance(node, ast.Constant):
            yield str(node.value)
        elif isinstance(node, ast.IfExp):
            yield from self._resolve(node.body)
            yield from self._resolve(node.orelse)
        elif isinstance(node, ast.JoinedStr):
            yield from self._join(node.values)
        elif isinstance(node, ast.Name):
            yield from self._values_of(node)
        else:
            passed_on = isinstance(node, ast.Attribute) and node.attr == "code"
            assert passed_on, f"{self.path}:{node.lineno}: write the code as a literal"

    def _join(self, parts: list[ast.expr]) -> Iterator[str]:
        texts = [""]
        for part in parts:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            texts = [text + more for text in texts for more in self._resolve(inner)]
        yield from texts

    def _values_of(self, name: ast.Name) -> Iterator[str]:
        function = self.functions.get(name)
        scopes: list[Any] = [self.nodes if function is None else list(ast.walk(function)), self.tree.body]
        for scope in scopes:
            values = [
                n.value for n in scope if isinstance(n, ast.Assign) and name.id in map(ast.unparse, n.targets)
            ]
            for value in values:
                yield from self._resolve(value)
            if values:
                return
        yield from self._arguments(function, name.id)

    def _arguments(self, function: Any, parameter: str) -> Iterator[str]:
        """What the module's calls of a function give for one of its parameters."""
        names = [argument.arg for argument in function.args.args]
        calls = [
            node
            for node in self.nodes
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == function.name
        ]
        assert calls, f"{self.path}: nobody calls {function.name}"
        for call in calls:
            yield from self._resolve(call.args[names.index(parameter)])


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), "utf-8")
