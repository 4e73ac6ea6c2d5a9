"""`distillgan edit`: change what people say of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from distillgan.edit import EDITABLE, check_names, edit_metadata
from distillgan.errors import DistillganError

from ._each import each_file
from ._shared import files_argument, json_option, library_option

_TEXTS = ("name", "description", "dataset_name", "training_date")


@click.command()
@files_argument
@click.option("--name", help="The model's name.")
@click.option("--description", help="What it sounds like.")
@click.option("--add-tag", "add_tags", multiple=True, metavar="TAG", help="One more tag; may be repeated.")
@click.option(
    "--remove-tag", "remove_tags", multiple=True, metavar="TAG", help="One tag less; may be repeated."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Another field, or a key of yours."
)
@click.option("--preview", type=click.Path(), help="A short sound to hear the model by.")
@click.option("--new-id", is_flag=True, help="Give a copy an id of its own.")
@json_option
@library_option
@click.pass_context
def edit(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    library: Path | None,
    **options: Any,
) -> None:
    """Change what people say of each FILE; the weights are copied as they are.

    The VALUE of --set is JSON where it can be (120, true, "120"), else text; null forgets a number or
    a key. A signature is removed by any change, and stderr says so. --json
    gives [{"path"}].
    """
    changes: dict[str, Any] = {key: value for key, value in options.items() if value not in (None, (), False)}
    fields, extra = _parse(settings)
    if not changes and not settings:
        raise click.UsageError("Nothing to change: give --name, --set or another option.")

    def work(path: Path) -> None:
        edit_metadata(path, extra=extra, **fields | changes)

    ctx.exit(each_file(files, library, as_json, work))


def _parse(settings: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields and the extra keys that --set gives; a name that is not the user's is misuse."""
    fields: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--set takes KEY=VALUE, not {setting!r}.")
        (fields if key in EDITABLE else extra)[key] = text if key in _TEXTS else _value(text)
    try:
        check_names(fields, extra)
    except DistillganError as error:
        raise click.UsageError(str(error)) from None
    return fields, extra


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return text
