"""`distillgan catalog`: scan a folder of models, repair the index, export the listing, show the page."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from distillgan._text import printable
from distillgan.catalog import LibraryProblem, ModelEntry, ModelLibrary, Progress

from ._library import choice_options, choose, entry_json, note_problems, open_library, problem_json
from ._shared import json_option, library_option, show, show_json, show_row
from .cmd_page import page

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


@click.group()
def catalog() -> None:
    """Scan a folder of models, repair the library's index, export the listing, look at it."""


catalog.add_command(page)


@catalog.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
@click.option("--jsonl", is_flag=True, help="Answer in JSON, one line for each file as it is found.")
def scan(folder: Path, as_json: bool, jsonl: bool) -> None:
    """List every model in DIR and its subfolders; weights are not read, links not followed.

    What was learned is kept in DIR/model_library.json, so that the next scan reads only what changed.
    Prints one tab-separated line for each model (path, name, id, state) and a count at the end; bad
    files are named on stderr. --json gives {"models", "problems"} as `model list --json` does, and
    "added", "changed", "missing", "removed" (paths) and "moved" ([old, new] paths) since the last
    scan. --jsonl gives one object for each file: a model's entry, or {"path", "code", "message"};
    models that are missing or share their id follow at the end, with that "state".
    """
    with _progress(show_line=jsonl) as progress:
        library = open_library(folder, progress)
    entries = library.list_all("file_path", reverse=False)
    if jsonl:
        for entry in entries:
            if entry.state != "ok":
                _show_line(entry)
    elif as_json:
        report = library.report._asdict() | {"problems": [problem_json(p) for p in library.problems]}
        show_json({"models": [entry_json(entry) for entry in entries], **report})
    else:
        for entry in entries:
            show_row((entry.file_path, entry.name, entry.model_id, entry.state))
        show(_count(library))
    note_problems(library)


@catalog.command()
@json_option
@library_option
def repair(as_json: bool, library: Path | None) -> None:
    """Read every file of the library anew, forget missing models, and write the index.

    Counts models since the index was last written. --json gives {"removed", "added"}.
    """
    found = open_library(library)
    new = len(found.report.added)
    removed, added = found.repair_index()
    if as_json:
        show_json({"removed": removed, "added": new + added})
    else:
        show(f"{removed} removed, {new + added} added")
    note_problems(found)


@catalog.command()
@click.option(
    "--format",
    "as_format",
    type=click.Choice(["json", "csv"]),
    default="json",
    show_default=True,
    help="What to write.",
)
@choice_options
@library_option
def export(
    as_format: str, search: str, tags: tuple[str, ...], sort: str, reverse: bool, library: Path | None
) -> None:
    """Write the listing of the library to stdout, as JSON or CSV.

    JSON is a list of entries as in `model list --json`. CSV has a line of field names; a cell that a
    spreadsheet would take for a formula begins with an apostrophe.
    """
    found = open_library(library)
    entries = choose(found, search, tags, sort, reverse)
    if as_format == "json":
        show_json([entry_json(entry) for entry in entries])
    else:
        click.echo(_to_csv(entries), nl=False)
    note_problems(found)


@contextlib.contextmanager
def _progress(*, show_line: bool) -> Iterator[Progress | None]:
    """What a scan tells of each file: to stdout with `show_line`, and a count to a terminal on stderr."""
    if not sys.stderr.isatty():
        yield _show_line if show_line else None
        return
    from rich.console import Console

    seen = 0

    with Console(stderr=True).status("0 files") as status:

        def tell(found: ModelEntry | LibraryProblem) -> None:
            nonlocal seen
            seen += 1
            if seen % 100 == 0:
                status.update(f"{seen:,} files")
            if show_line:
                _show_line(found)

        yield tell


def _show_line(found: ModelEntry | LibraryProblem) -> None:
    import json

    value = entry_json(found) if isinstance(found, ModelEntry) else problem_json(found)
    click.echo(json.dumps(value, allow_nan=False).replace("\x7f", "\\u007f"))


def _count(library: ModelLibrary) -> str:
    states = [entry.state for entry in library.list_all()]
    parts = [f"{states.count('ok')} ok"]
    for number, text in (
        (states.count("missing"), "missing"),
        (states.count("duplicate"), "with the ID of another file"),
        (len(library.problems), "unreadable"),
    ):
        if number:
            parts.append(f"{number} {text}")
    return ", ".join(parts)


def _to_csv(entries: list[ModelEntry]) -> str:
    """The entries as CSV: tags joined by commas, the vocoder's facts in columns of their own."""
    rows = [_flat(entry) for entry in entries]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_flat(ModelEntry("", "", "", 0)))
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _flat(entry: ModelEntry) -> dict[str, Any]:
    row = entry_json(entry) | {"tags": ",".join(entry.tags)}
    row.pop("vocoder", None)
    vocoder = entry.vocoder
    row["vocoder_type"] = vocoder.type if vocoder else ""
    row["vocoder_epochs"] = vocoder.epochs if vocoder else None
    row["vocoder_final_loss"] = vocoder.final_loss if vocoder else None
    row["vocoder_training_date"] = vocoder.training_date if vocoder else ""
    return row


def _cell(value: Any) -> str:
    """A value as text that no spreadsheet computes; numbers stay numbers."""
    if not isinstance(value, str):
        return "" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    text = printable(value, keep="\n\t")
    return f"'{text}" if text.startswith(_FORMULA) else text
