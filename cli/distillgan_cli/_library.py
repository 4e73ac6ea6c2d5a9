"""What the commands on a library share: opening it, choosing models, their JSON, completion."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from distillgan.catalog import LibraryProblem, ModelEntry, ModelLibrary, Progress
from distillgan.errors import DistillganError

from ._shared import library_folder, note

# What --sort takes: the field, and whether the largest comes first.
SORTS = {
    "saved": ("save_date", True),
    "name": ("name", False),
    "dataset": ("dataset_name", False),
    "epochs": ("training_epochs", True),
    "loss": ("final_val_loss", False),
    "vocoder": ("vocoder", False),
    "size": ("file_size_bytes", True),
}


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --search, --tag, --sort and --reverse to a command."""
    for option in (
        click.option("--reverse", is_flag=True, help="The other way round."),
        click.option(
            "--sort",
            type=click.Choice(list(SORTS)),
            default="saved",
            show_default=True,
            help="Newest, most epochs, largest first; names and losses rising. Unknown values come last.",
        ),
        click.option("--tag", "tags", multiple=True, help="Only models with this tag, or any of several."),
        click.option(
            "--search", default="", metavar="TEXT", help="Only models with TEXT in their name or description."
        ),
    ):
        command = option(command)
    return command


def open_library(library: Path | None, progress: Progress | None = None) -> ModelLibrary:
    """Open the library; a folder that was named must exist, the system's own may not yet."""
    folder = library_folder(library)
    if library is not None and not folder.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))
    return ModelLibrary(folder, progress=progress)


def choose(
    library: ModelLibrary, search: str, tags: tuple[str, ...], sort: str, reverse: bool
) -> list[ModelEntry]:
    """The models that the options of `choice_options` ask for."""
    field, falling = SORTS[sort]
    return library.search(search, tags, sort_by=field, reverse=falling != reverse)


def note_problems(library: ModelLibrary) -> None:
    """Name on stderr the files that are bad, missing, or share their model id."""
    for problem in library.problems:
        note(f"{problem.path}: {problem.code}: {problem.message}")
    for entry in library.with_state("missing"):
        note(f"{entry.file_path}: missing; `distillgan catalog repair` forgets it")
    for entry in library.with_state("duplicate"):
        note(
            f"{entry.file_path}: another file has its model ID {entry.model_id}, too; "
            "`distillgan edit FILE --new-id` gives it its own"
        )


def entry_json(entry: ModelEntry) -> dict[str, Any]:
    """An entry for --json: every field, `vocoder` only if there is one."""
    return {key: value for key, value in asdict(entry).items() if key != "vocoder" or value is not None}


def problem_json(problem: LibraryProblem) -> dict[str, str]:
    """A problem for --json."""
    return problem._asdict()


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Shell completion of a REF: names, and ids once one has begun."""
    from click.shell_completion import CompletionItem

    try:
        entries = open_library(ctx.params.get("library")).list_all("name", reverse=False)
    except (DistillganError, OSError):  # a shell that completes wants no complaint
        return []
    names = [CompletionItem(e.name, help=e.model_id) for e in entries if e.name.startswith(incomplete)]
    ids = [
        CompletionItem(e.model_id, help=e.name)
        for e in entries
        if incomplete and e.model_id.startswith(incomplete)
    ]
    return names + ids


model_argument = click.argument("ref", metavar="REF", shell_complete=complete_model)
