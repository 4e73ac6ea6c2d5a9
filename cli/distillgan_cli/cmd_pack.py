"""`distillgan pack`: a checkpoint, and a vocoder if there is one, into one container."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from distillgan import writer
from distillgan.errors import LEGACY_REFERENCE, DistillganError, LegacyFormatError, PairingError
from distillgan.labels import size_text
from distillgan.manifest import MODEL_FILE_EXTENSION, ModelMetadata

from ._shared import force_option, json_option, note, progress_bar, refuse_itself, show, show_json
from ._vocoder import VocoderOptions, json_object, read_vocoder, vocoder_options
from .main import complain, exit_code

_GENERIC_STEM = re.compile(r"checkpoint_epoch.*|best|last", re.IGNORECASE)
_DERIVED = ("has_analysis", "n_active_components")  # they follow the analysis


@click.command()
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write.")
@click.option(
    "--library",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write into this folder, under the model's name.  [default: the current folder]",
)
@click.option("--vocoder", type=click.Path(), help="The vocoder's generator file.")
@vocoder_options
@click.option("--name", help="The model's name.  [default: from the file's name]")
@click.option("--description", help="What it sounds like.")
@click.option("--tag", "tags", multiple=True, help="A tag; may be repeated.")
@click.option("--metadata", "metadata_json", metavar="JSON", help="More fields, as a JSON file or text.")
@click.option("--preview", type=click.Path(), help="A short sound to hear the model by.")
@click.option("--allow-mismatch", is_flag=True, help="Pack a vocoder that does not match the model.")
@force_option
@json_option
@click.pass_context
def pack(ctx: click.Context, /, checkpoints: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Make a .distillgan file of each CHECKPOINT.

    CHECKPOINT is a Distill training checkpoint, a state dict (.pt), a .safetensors or a .distillgan
    file. It is read without running any code in it. --json gives [{"path", "size", "model_id", "name",
    "warnings", "from"}].
    """
    output, library = options["output"], options["library"]
    if output is not None and (library is not None or len(checkpoints) > 1):
        raise click.UsageError("-o takes one checkpoint, and no --library.")
    loose = [name for name in VocoderOptions._fields if options[f"vocoder_{name}"] is not None]
    if options["vocoder"] is None and loose:
        raise click.UsageError(f"--vocoder-{loose[0].replace('_', '-')} needs --vocoder.")
    answers, worst = [], 0
    for checkpoint in checkpoints:
        try:
            answers.append(_pack(checkpoint, options))
        except (DistillganError, OSError) as error:
            if isinstance(error, PairingError):
                error = PairingError(f"{checkpoint}: {error}")
            complain(error)
            worst = max(worst, exit_code(error))
            continue
        for warning in answers[-1]["warnings"]:
            note(f"{checkpoint}: warning: {warning}")
        if not as_json:
            show(f"{answers[-1]['path']} ({size_text(answers[-1]['size'])})")
    if as_json:
        show_json(answers)
    ctx.exit(worst)


def _pack(checkpoint: str, options: dict[str, Any]) -> dict[str, Any]:
    if checkpoint.endswith(".distill"):
        raise LegacyFormatError(LEGACY_REFERENCE, path=checkpoint)
    target = options["output"]
    if target is not None:
        _refuse_existing(target, options["force"])
        refuse_itself(target, checkpoint)
    from distillgan.torch import Recipe, read_model  # torch, and with it a second

    parts = read_model(checkpoint)
    parts.metadata = _metadata(parts.metadata, checkpoint, options)
    if options["vocoder"] is not None:
        said = VocoderOptions(*(options[f"vocoder_{name}"] for name in VocoderOptions._fields))
        parts.vocoder_state = read_vocoder(options["vocoder"], said)
    if options["preview"] is not None:
        from distillgan.preview import read_preview  # soundfile, for some previews

        parts.preview = read_preview(options["preview"])
    recipe: Recipe = parts.prepare()
    _check_pairing(recipe, options["allow_mismatch"])
    total = sum(content.size for content in recipe.contents.values())
    with progress_bar(f"packing {checkpoint}", total) as progress:
        path = _write(recipe, options, progress)
    return {
        "path": os.fspath(path),
        "size": path.stat().st_size,
        "model_id": recipe.metadata.model_id,
        "name": recipe.metadata.name,
        "warnings": recipe.all_warnings(),
        "from": checkpoint,
    }


def _write(recipe: Any, options: dict[str, Any], progress: Callable[[int], object]) -> Path:
    if options["library"] is not None:
        return writer.create_named(
            options["library"], recipe.metadata.name, recipe.describe, recipe.contents, progress=progress
        )
    target = options["output"] or Path(writer.file_stem(recipe.metadata.name) + MODEL_FILE_EXTENSION)
    _refuse_existing(target, options["force"])
    return writer.create(target, recipe.describe, recipe.contents, force=options["force"], progress=progress)


def _refuse_existing(target: Path, force: bool) -> None:
    if target.is_dir():
        raise click.UsageError(f"{target} is a folder: give a file, or --library {target}.")
    if target.suffix == ".distill":
        raise click.UsageError(f"{target}: .distill files are never read; use {MODEL_FILE_EXTENSION}.")
    if not force and os.path.lexists(target):
        raise FileExistsError(17, "exists", os.fspath(target))


def _check_pairing(recipe: Any, allow_mismatch: bool) -> None:
    if recipe.pairing is None or not recipe.pairing.mismatches:
        return
    if not allow_mismatch:
        raise PairingError(f"The vocoder {recipe.pairing.verdict}. --allow-mismatch packs it all the same.")
    recipe.warnings.append(f"the vocoder {recipe.pairing.verdict}")


def _metadata(found: ModelMetadata, checkpoint: str, options: dict[str, Any]) -> ModelMetadata:
    """What the checkpoint says, overruled by --metadata, overruled by the options."""
    said: dict[str, Any] = {}
    if options["metadata_json"] is not None:
        said = json_object(options["metadata_json"], "--metadata")
    said |= {key: options[key] for key in ("name", "description") if options[key] is not None}
    if options["tags"]:
        said["tags"] = list(options["tags"])
    if "name" not in said and not found.model_id:
        said["name"] = default_name(checkpoint)
    known = {field.name for field in dataclasses.fields(ModelMetadata)} - {"extra", *_DERIVED}
    extra = found.extra | {k: v for k, v in said.items() if k not in known and k not in _DERIVED}
    changes = {key: value for key, value in said.items() if key in known}
    try:
        values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        return msgspec.convert(values | changes | {"extra": extra}, ModelMetadata)
    except msgspec.ValidationError as error:
        raise DistillganError(f"--metadata: {error}") from None


def default_name(checkpoint: str) -> str:
    """A model's name from its checkpoint's: the stem, or the folder's name where that is generic."""
    path = Path(checkpoint).resolve()
    stem = Path(checkpoint).name.removesuffix(".zst")
    stem = os.path.splitext(stem)[0]
    if not _GENERIC_STEM.fullmatch(stem):
        return stem
    folders = (folder.name for folder in path.parents if folder.name not in ("", "checkpoints"))
    return next(folders, stem)
