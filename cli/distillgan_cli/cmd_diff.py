"""`distillgan diff`: in what two models differ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from distillgan._diff import Changed, ComponentDiff, Diff
from distillgan._diff import diff as find_differences
from distillgan.errors import DistillganError

from ._shared import find_file, json_option, library_option, show, show_json
from .main import complain

_LONG = 70  # characters of a value that a line shows


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--values", is_flag=True, help="Measure the largest change in each tensor.")
@json_option
@library_option
@click.pass_context
def diff(ctx: click.Context, a: str, b: str, values: bool, as_json: bool, library: Path | None) -> None:
    """Say in what B differs from A: manifest, configurations, tensors.

    Each is a model or a plain safetensors file. Tensors are compared by digest, so no weights are read
    where there are digests. --values gives the largest |b - a|, and the largest |b - a| / max(|a|, |b|).

    --json gives {"same", "manifest": [{"path", "before", "after"}], "components": {name: {"added",
    "removed", "reshaped": [{"name", "before", "after"}], "changed": [{"name", "largest_absolute",
    "largest_relative"}]}}, "only_before", "only_after"}; what is absent has no key.

    Exit codes: 0 the same, 1 different, 2 unreadable or misuse.
    """
    try:
        paths = find_file(a, library), find_file(b, library)
        found = _with_values(*paths) if values else find_differences(*paths)
    except (DistillganError, OSError) as error:
        complain(error)
        ctx.exit(2)
    if as_json:
        show_json({"same": found.same, **msgspec.to_builtins(found)})
    else:
        for line in _lines(found, *map(os.fspath, paths)):
            show(line)
    ctx.exit(int(not found.same))


def _with_values(a: Path, b: Path) -> Diff:
    from distillgan.torch import diff_values  # torch, and with it a second

    return diff_values(a, b)


def _lines(found: Diff, a: str, b: str) -> Iterator[str]:
    if found.same:
        yield "no difference"
    for change in found.manifest:
        yield f"{change.path}: {_text(change.before)} -> {_text(change.after)}"
    for name, part in found.components.items():
        if not part.same:
            yield from _component(name, part)
    yield from (f"{name}: only in {a}" for name in found.only_before)
    yield from (f"{name}: only in {b}" for name in found.only_after)


def _component(name: str, part: ComponentDiff) -> Iterator[str]:
    kinds = {kind: getattr(part, kind) for kind in ("added", "removed", "reshaped", "changed")}
    yield f"{name}: " + ", ".join(f"{len(items)} {kind}" for kind, items in kinds.items() if items)
    yield from (f"  added     {tensor}" for tensor in part.added)
    yield from (f"  removed   {tensor}" for tensor in part.removed)
    yield from (f"  reshaped  {item.name}: {item.before} -> {item.after}" for item in part.reshaped)
    yield from (f"  changed   {item.name}{_measure(item)}" for item in part.changed)


def _measure(item: Changed) -> str:
    if item.largest_absolute is msgspec.UNSET:
        return ""
    absolute, relative = (
        "not a number" if value is None else f"{value:.3g}"
        for value in (item.largest_absolute, item.largest_relative)
    )
    return f": largest change {absolute}, relative {relative}"


def _text(value: Any) -> str:
    if value is msgspec.UNSET:
        return "absent"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"
