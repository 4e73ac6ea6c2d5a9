"""`distillgan model`: list the models of the library, tell about one, delete one."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click

from distillgan import labels
from distillgan._text import printable
from distillgan.catalog import ModelEntry, ModelLibrary
from distillgan.errors import DistillganError
from distillgan.labels import size_text

from ._library import (
    choice_options,
    choose,
    entry_json,
    model_argument,
    note_problems,
    open_library,
    problem_json,
)
from ._shared import json_option, library_option, note, show, show_fields, show_json

_COLUMNS = ("Name", "Dataset", "Epochs", "Val loss", "Vocoder", "Size", "Saved", "ID")
_NUMBERS = ("Epochs", "Val loss", "Size")
_TEXTS = ("Name", "Dataset", "Vocoder")  # these wrap; the others never do
_WIDE = 100
_SHORT_ID = 8


@click.group()
def model() -> None:
    """List the models of the library, tell about one, delete one."""


@model.command("list")
@choice_options
@json_option
@library_option
def list_models(
    search: str, tags: tuple[str, ...], sort: str, reverse: bool, as_json: bool, library: Path | None
) -> None:
    """List the models of the library; weights are not read.

    A table on a terminal, tab-separated lines with whole ids when piped. Bad, missing and duplicate
    files are named on stderr. --json gives {"models": [{"model_id", "name", "file_path",
    "file_size_bytes", "tags", "vocoder", "state" …}], "problems": [{"path", "code", "message"}]};
    unknown numbers are null, "vocoder" is absent without one.
    """
    found = open_library(library)
    entries = choose(found, search, tags, sort, reverse)
    if as_json:
        problems = [problem_json(problem) for problem in found.problems]
        show_json({"models": [entry_json(entry) for entry in entries], "problems": problems})
    else:
        _show_entries(entries, found)
    note_problems(found)


@model.command()
@model_argument
@json_option
@library_option
def info(ref: str, as_json: bool, library: Path | None) -> None:
    """Tell what the library knows of the model REF: a name, an id, or a unique beginning of an id.

    --json gives the entry as `model list --json` does, and its "path".
    """
    found = open_library(library)
    entry = found.resolve(ref)
    path = found.path_of(entry)
    if as_json:
        show_json(entry_json(entry) | {"path": os.fspath(path)})
        return
    show(entry.name)
    show_fields(_fields(entry, path))


@model.command()
@model_argument
@click.option("--force", is_flag=True, help="Do not ask.")
@json_option
@library_option
@click.pass_context
def delete(ctx: click.Context, ref: str, force: bool, as_json: bool, library: Path | None) -> None:
    """Delete the file of the model REF: a name, an id, or a unique beginning of an id.

    Asks first on a terminal; elsewhere nothing is deleted without --force. Exit code 1 if nothing was
    deleted. --json gives {"deleted": true or false, "model_id", "path"}.
    """
    found = open_library(library)
    entry = found.resolve(ref)
    path = found.path_of(entry)
    if entry.state == "missing":
        raise DistillganError(f"{path} is missing; `distillgan catalog repair` forgets it.")
    deleted = (force or _confirm(entry, path)) and found.delete(entry.model_id)
    if as_json:
        show_json({"deleted": deleted, "model_id": entry.model_id, "path": os.fspath(path)})
    else:
        (show if deleted else note)(f"{path}: {'deleted' if deleted else 'not deleted'}")
    ctx.exit(0 if deleted else 1)


def _confirm(entry: ModelEntry, path: Path) -> bool:
    if not sys.stdin.isatty():
        note("Nothing is deleted without a terminal to ask on; say --force.")
        return False
    size = size_text(entry.file_size_bytes)
    return click.confirm(printable(f"Delete {entry.name!r} ({path}, {size})?"), err=True)


def _show_entries(entries: list[ModelEntry], library: ModelLibrary) -> None:
    """Draw the table on a terminal, in 80 columns too; print tab-separated lines when piped."""
    if not sys.stdout.isatty():
        rows = (_COLUMNS, *(_row(entry, None) for entry in entries))
        click.echo("\n".join("\t".join(map(printable, row)) for row in rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, id_length = Console(), _id_length(library.list_all())
    narrow = console.width < _WIDE
    table = Table(box=None, padding=(0, 1 if narrow else 2, 0, 0), pad_edge=False)
    for name in _COLUMNS:
        justify: Literal["left", "right"] = "right" if name in _NUMBERS else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name not in _TEXTS)
    for entry in entries:
        cells = [printable(cell) for cell in _row(entry, id_length)]
        if narrow:
            cells[4] = cells[4].replace(" (", "\n(")  # the vocoder's epochs below its name
        table.add_row(*map(Text, cells))
    console.print(table)


def _row(entry: ModelEntry, id_length: int | None) -> tuple[str, ...]:
    vocoder = entry.vocoder
    return (
        entry.name,
        entry.dataset_name,
        "" if entry.training_epochs is None else str(entry.training_epochs),
        "" if entry.final_val_loss is None else labels.loss_text(entry.final_val_loss),
        "" if vocoder is None else labels.vocoder_short(vocoder.type, vocoder.epochs),
        "missing" if entry.state == "missing" else size_text(entry.file_size_bytes),
        entry.save_date[:10],
        entry.model_id[:id_length],
    )


def _id_length(entries: list[ModelEntry]) -> int:
    """How many characters tell all ids apart, at least eight."""
    ids = sorted({entry.model_id for entry in entries})
    return max([_SHORT_ID, *(_shared(a, b) + 1 for a, b in itertools.pairwise(ids))])


def _shared(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _fields(entry: ModelEntry, path: Path) -> Iterator[tuple[str, str]]:
    yield "id", entry.model_id
    state = "" if entry.state == "ok" else f", {entry.state}"
    yield "file", f"{path} ({size_text(entry.file_size_bytes)}{state})"
    if entry.description:
        yield "description", entry.description
    if entry.tags:
        yield "tags", ", ".join(entry.tags)
    yield from labels.training_facts(entry)
    vocoder = entry.vocoder
    if vocoder is None:
        yield "vocoder", "(none)"
    else:
        facts = (vocoder.epochs, vocoder.final_loss, vocoder.training_date)
        yield "vocoder", labels.vocoder_long(vocoder.type, *facts)
    if entry.has_analysis:
        yield "analysis", f"{entry.n_active_components} active components"
    yield "saved", entry.save_date
