"""What several commands need: references, the library's folder, JSON, tables, progress."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from distillgan._text import printable
from distillgan.errors import LEGACY_REFERENCE, LegacyFormatError, ModelNotFoundError

_LONG_WORK = 256 * 1024 * 1024  # bytes: below, a bar would only flicker
_LEGACY_SUFFIX = ".distill"

json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON (ASCII).")
force_option = click.option("--force", is_flag=True, help="Replace what is there.")
library_option = click.option(
    "--library",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DISTILLGAN_LIBRARY",
    help="The folder of models.  [default: $DISTILLGAN_LIBRARY, else the system's data folder]",
)

_LEAST_COLUMNS = 40  # narrower, the terminal wraps


def library_folder(library: Path | None) -> Path:
    """The library's folder: as given, else that of the system's application data."""
    if library is not None:
        return library
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "distillgan" / "models"


def find_file(reference: str, library: Path | None = None) -> Path:
    """The file that a path, or a model's name, id or id prefix stands for.

    Raises ModelNotFoundError, AmbiguousModelError, LegacyFormatError for `*.distill`.
    """
    if reference.endswith(_LEGACY_SUFFIX):
        raise LegacyFormatError(LEGACY_REFERENCE, path=reference)
    if os.path.lexists(reference):
        return Path(reference)
    if os.sep in reference or reference.endswith((".distillgan", ".zst", ".safetensors")):
        raise ModelNotFoundError(f"Model file not found: {reference}")
    from distillgan.catalog import ModelLibrary  # only when a name or an id is to be looked up

    models = ModelLibrary(library_folder(library))
    return models.path_of(models.resolve(reference))


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Shell completion of a FILE: the library's models, and the shell's own paths."""
    from click.shell_completion import CompletionItem

    from ._library import complete_model  # the catalog, for completion only

    return [*complete_model(ctx, param, incomplete), CompletionItem(incomplete, type="file")]


file_argument = click.argument("file", metavar="FILE", shell_complete=complete_file)
files_argument = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, shell_complete=complete_file
)


def show(text: str = "") -> None:
    """Print one line of an answer; whatever a file put into it comes out as text."""
    click.echo(printable(text))


def note(text: str) -> None:
    """Print a remark or a complaint on stderr."""
    click.echo(printable(text), err=True)


def refuse_itself(target: Path, source: str | os.PathLike[str]) -> None:
    """Refuse to write over the file that is read."""
    with contextlib.suppress(OSError):
        if os.path.samefile(target, source):
            raise click.UsageError(f"{target} is the file that is read, and stays: give another name.")


def show_json(value: Any) -> None:
    """Print a JSON answer in ASCII."""
    import json  # 3 ms that only --json should cost

    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f"))


def show_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print labelled values, wrapped to the terminal under their own column."""
    import textwrap

    width = min(_columns(), 100)
    for label, value in fields:
        for line in printable(value, keep="\n").splitlines() or [""]:
            wrapped = textwrap.wrap(line, width - 15, break_on_hyphens=False, break_long_words=False) or [""]
            for part in wrapped:
                click.echo(f"  {printable(label):<12} {part}".rstrip())
                label = ""


def _columns() -> int:
    """The terminal's width; as shutil has it, without the archive formats that shutil imports."""
    try:
        return max(int(os.environ.get("COLUMNS", "")) or 80, _LEAST_COLUMNS)
    except ValueError:
        pass
    try:
        return max(os.get_terminal_size(1).columns or 80, _LEAST_COLUMNS)
    except (OSError, ValueError):
        return 80


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table: drawn on a terminal, tab-separated with a header line when piped."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            show_row(row)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def show_row(cells: Sequence[str]) -> None:
    """Print one tab-separated line."""
    click.echo("\t".join(printable(cell) for cell in cells))


@contextlib.contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """A function to be told of bytes done; draws a bar on stderr if that is a terminal and it is long."""
    if total < _LONG_WORK or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(label), total=total)
        yield lambda count: bar.advance(task, count)
