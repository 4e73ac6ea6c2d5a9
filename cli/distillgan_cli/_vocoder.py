"""The vocoder options that `pack` and `attach` share."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from distillgan.errors import DistillganError

from ._shared import note


class VocoderOptions(NamedTuple):
    """What the command line says of a vocoder."""

    config: str | None
    type: str | None
    epochs: int | None
    loss: float | None
    date: str | None


def vocoder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --vocoder-config, -type, -epochs, -loss and -date to a command."""
    options = (
        click.option("--vocoder-config", metavar="JSON", help="The vocoder's config.json, or JSON text."),
        click.option("--vocoder-type", metavar="TYPE", help="[default: what the shapes tell]"),
        click.option("--vocoder-epochs", type=click.IntRange(min=0), help="Epochs it was trained."),
        click.option("--vocoder-loss", type=float, help="Its final loss."),
        click.option("--vocoder-date", metavar="ISO", callback=_iso_date, help="When it was trained."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def read_vocoder(path: str, options: VocoderOptions) -> dict[str, Any]:
    """The `vocoder_state` of a generator file and the options given with it.

    A `config.json` beside the file is taken when no configuration is given, and said so.
    """
    from distillgan.torch import read_vocoder_state

    config = None if options.config is None else json_object(options.config, "--vocoder-config")
    beside = Path(path).with_name("config.json")
    if config is None and beside.is_file():
        config = json_object(str(beside), str(beside))
        note(f"The vocoder's configuration is {beside}.")
    training = {"epochs": options.epochs, "final_loss": options.loss, "training_date": options.date}
    return read_vocoder_state(
        path,
        type=options.type,
        config=config,
        training_metadata={k: v for k, v in training.items() if v is not None},
    )


def json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object from a file's path or from the text itself."""
    try:
        raw = text.encode() if text.lstrip().startswith("{") else Path(text).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{what}: cannot read {text}: {error.strerror}") from None
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        raise DistillganError(f"{what}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DistillganError(f"{what}: not a JSON object.")
    return value


def _iso_date(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            datetime.datetime.fromisoformat(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not an ISO date such as 2026-02-21.") from None
    return value
