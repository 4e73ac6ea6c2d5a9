"""Save a model: state dicts and what people know of them -> one container."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from torch import nn

from .. import writer
from .._text import printable
from .._version import __version__
from ..container import PREVIEW_NAME, Container, entry_name, is_container
from ..errors import CheckpointError, FormatError
from ..manifest import (
    MODEL_FORMAT_MARKER,
    SAVED_MODEL_VERSION,
    Manifest,
    ModelMetadata,
    Preview,
    Vae,
    Vocoder,
    decode_manifest,
    encode_manifest,
    encode_metadata,
    encode_object,
)
from ..pairing import Pairing, check_pairing
from ..verify import verify
from . import _tensors, networks
from ._checkpoint import finite_or_none, read_checkpoint
from ._load import load_model
from ._plain import plain_object
from ._vocoder import identify_vocoder

logger = logging.getLogger("distillgan")

_VOCODER_KEYS = {"type", "state_dict", "config", "training_metadata"}


class Recipe(NamedTuple):
    """A container ready to be written: how to describe it, what its entries hold, what to warn of."""

    describe: Callable[[], Manifest]
    contents: dict[str, writer.Content]
    pairing: Pairing | None
    warnings: list[str]
    metadata: ModelMetadata

    def all_warnings(self) -> list[str]:
        """What to warn of, values that are not finite included, once the container is written."""
        return self.warnings + find_not_finite(self.contents)


def save_model(
    model: nn.Module | Mapping[str, Any],
    spectrogram_config: Mapping[str, Any] | None,
    training_config: Mapping[str, Any] | None,
    metadata: ModelMetadata,
    models_dir: str | os.PathLike[str],
    analysis: Any = None,
    vocoder_state: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model (or a state dict) as a new container in a folder and return its path.

    `analysis` is a dict or an object with its keys as attributes, arrays as NumPy; `vocoder_state`
    is `{"type", "state_dict", "config", "training_metadata"}`. An empty `model_id` or `save_date` is
    filled in, in the file only: arguments are not changed. A vocoder that does not match and values
    that are not finite are stored and logged as warnings. Raises CheckpointError that names the key
    for what a container cannot hold.
    """
    state_dict = model.state_dict() if isinstance(model, nn.Module) else model
    metadata = _plain_metadata(metadata)
    recipe = prepare(state_dict, spectrogram_config, training_config, metadata, analysis, vocoder_state)
    return _write(recipe, models_dir)


def save_model_from_checkpoint(
    checkpoint_path: str | os.PathLike[str],
    metadata: ModelMetadata,
    models_dir: str | os.PathLike[str],
    vocoder_state: Mapping[str, Any] | None = None,
) -> Path:
    """Save a training checkpoint as a new container in a folder and return its path.

    Epochs and losses come from the checkpoint where `metadata` does not say them. Raises as
    `save_model` does, and CheckpointError for a file that cannot be read safely.
    """
    model = read_model(checkpoint_path)
    model.metadata = _fill_unknown(_plain_metadata(metadata), model.metadata)
    if vocoder_state is not None:
        model.vocoder_state = vocoder_state
    return _write(model.prepare(), models_dir)


@dataclasses.dataclass
class Model:
    """The parts of a model, before they become a container."""

    state_dict: Mapping[str, Any]
    spectrogram_config: Mapping[str, Any] | None
    training_config: Mapping[str, Any]
    metadata: ModelMetadata
    analysis: Any = None
    vocoder_state: Mapping[str, Any] | None = None
    preview: tuple[Preview, bytes] | None = None

    def prepare(self) -> Recipe:
        """Check everything that a container will hold, before a byte of it is written."""
        return prepare(
            self.state_dict,
            self.spectrogram_config,
            self.training_config,
            self.metadata,
            self.analysis,
            self.vocoder_state,
            self.preview,
        )


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read a checkpoint, or a container with its manifest, as the parts of a model.

    A container is verified; its tensors are mapped. Raises CheckpointError, FormatError,
    ModelNotFoundError.
    """
    if is_container(path):
        return _read_container(path)
    checkpoint = read_checkpoint(path)
    metadata = ModelMetadata(
        training_epochs=checkpoint.epochs,
        final_train_loss=checkpoint.train_loss,
        final_val_loss=checkpoint.val_loss,
    )
    return Model(
        checkpoint.state_dict,
        checkpoint.spectrogram_config,
        checkpoint.training_config,
        metadata,
        checkpoint.latent_analysis,
    )


def _read_container(path: str | os.PathLike[str]) -> Model:
    problems = verify(path)
    if problems:
        raise FormatError(problems[0].code, problems[0].message, where=problems[0].where).at(path)
    loaded = load_model(path)
    preview = loaded.manifest.preview
    return Model(
        loaded.state_dict,
        loaded.spectrogram_config,
        loaded.training_config,
        loaded.metadata,
        loaded.manifest.latent_analysis,
        loaded.vocoder_state,
        None if preview is None else (preview, _read_preview(path)),
    )


def _read_preview(path: str | os.PathLike[str]) -> bytes:
    with Container.open(path) as container:
        return container.read_entry(PREVIEW_NAME) or b""


def _plain_metadata(metadata: ModelMetadata) -> ModelMetadata:
    """The same with Python's numbers in the place of NumPy's and torch's, which trainers count with."""
    if not isinstance(metadata, ModelMetadata):
        raise CheckpointError(f"metadata is a {type(metadata).__name__}: give a ModelMetadata.")
    values = {field.name: getattr(metadata, field.name) for field in dataclasses.fields(metadata)}
    numbers: dict[str, Any] = {
        name: value.item()
        for name, value in values.items()
        if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.numel() == 1)
    }
    return dataclasses.replace(metadata, **numbers)


def _fill_unknown(metadata: ModelMetadata, found: ModelMetadata) -> ModelMetadata:
    """A copy of metadata with epochs and losses from the checkpoint where it has none."""
    names = ("training_epochs", "final_train_loss", "final_val_loss")
    unknown = {name: getattr(found, name) for name in names if getattr(metadata, name) is None}
    return dataclasses.replace(metadata, **unknown)


def prepare(
    state_dict: Mapping[str, Any],
    spectrogram_config: Mapping[str, Any] | None,
    training_config: Mapping[str, Any] | None,
    metadata: ModelMetadata,
    analysis: Any = None,
    vocoder_state: Mapping[str, Any] | None = None,
    preview: tuple[Preview, bytes] | None = None,
) -> Recipe:
    """Check everything that a container will hold, before a byte of it is written."""
    vae = _tensors.content(state_dict)
    contents: dict[str, writer.Content] = {entry_name("vae"): vae}
    spectrogram = (
        None if spectrogram_config is None else plain_object(spectrogram_config, "spectrogram_config")
    )
    latent = None if analysis is None else plain_object(_attributes(analysis), "latent_analysis", arrays=True)
    filled, warnings = complete_metadata(metadata, latent)
    fields: dict[str, Any] = {
        "format": MODEL_FORMAT_MARKER,
        "version": SAVED_MODEL_VERSION,
        "written_by": f"distillgan {__version__}",
        "metadata_json": encode_metadata(filled),
        "spectrogram_config_json": _raw(spectrogram, "spectrogram_config"),
        "training_config_json": _raw(
            plain_object(training_config or {}, "training_config"), "training_config"
        ),
        "latent_analysis_json": _raw(latent, "latent_analysis"),
    }
    architecture, latent_dim = networks.identify({n: s.shape for n, s in vae.specs.items()})
    vocoder, pairing = None, None
    if vocoder_state is not None:
        vocoder = VocoderRecipe(vocoder_state)
        contents[entry_name("vocoder")] = vocoder.content
        warnings += vocoder.warnings
        pairing = check_pairing(spectrogram, vocoder.config, vocoder.content.specs.values())
    if preview is not None:
        fields["preview"] = preview[0]
        contents[PREVIEW_NAME] = writer.BytesContent(preview[1])

    def describe() -> Manifest:
        return Manifest(
            **fields,
            vae=Vae(architecture=architecture, latent_dim=latent_dim, **vae.describe()),
            vocoder=None if vocoder is None else vocoder.describe(),
        )

    if architecture == networks.UNKNOWN and identify_vocoder(state_dict) != networks.UNKNOWN:
        warnings.append("this looks like a vocoder; --vocoder takes one beside its model")
    if state_dict and all(name.startswith("module.") for name in state_dict):
        warnings.append("every name begins with 'module.' (DataParallel) and is kept so; save model.module")
    decode_manifest(encode_manifest(describe()))  # what no door would let in is not written
    return Recipe(describe, contents, pairing, warnings, filled)


class VocoderRecipe:
    """A vocoder state, checked: its content and how the manifest describes it."""

    def __init__(self, state: Mapping[str, Any]):
        if not isinstance(state, Mapping) or not {"type", "state_dict"} <= set(state) <= _VOCODER_KEYS:
            raise CheckpointError(
                'A vocoder_state is {"type", "state_dict", "config", "training_metadata"}; '
                "the first two are needed."
            )
        if not isinstance(state["type"], str):
            raise CheckpointError(f"The vocoder's type is {state['type']!r}, not text.")
        self.type = state["type"]
        self.content = _tensors.content(state["state_dict"])
        self.config = _optional(state, "config")
        self.training_metadata, self.warnings = _finite_loss(
            _optional(state, "training_metadata", losses=True)
        )

    def describe(self) -> Vocoder:
        """The manifest's `vocoder`."""
        return Vocoder(
            type=self.type,
            config_json=_raw(self.config, "vocoder.config"),
            training_metadata_json=_raw(self.training_metadata, "vocoder.training_metadata"),
            **self.content.describe(),
        )


def complete_metadata(
    metadata: ModelMetadata, latent: Mapping[str, Any] | None
) -> tuple[ModelMetadata, list[str]]:
    """A copy with id and date filled in, analysis fields that follow the analysis, losses finite."""
    if not isinstance(metadata.tags, list | tuple):
        raise CheckpointError(f"The tags are {metadata.tags!r}, not a list of texts.")
    warnings = []
    losses: dict[str, Any] = {}
    for name in ("final_train_loss", "final_val_loss"):
        loss = getattr(metadata, name)
        losses[name] = finite_or_none(loss)
        if loss is not None and losses[name] is None:
            warnings.append(f"{name} is {loss} and is stored as unknown")
    active = (latent or {}).get("n_active_components")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    filled = dataclasses.replace(
        metadata,
        model_id=metadata.model_id or str(uuid.uuid4()),
        save_date=metadata.save_date or now,
        tags=list(metadata.tags),
        has_analysis=latent is not None,
        n_active_components=active if type(active) is int and active >= 0 else 0,
        extra=plain_object(metadata.extra, "metadata"),
        **losses,
    )
    return filled, warnings


def _write(recipe: Recipe, models_dir: str | os.PathLike[str]) -> Path:
    folder, name = Path(models_dir), recipe.metadata.name
    path = writer.create_named(folder, name, recipe.describe, recipe.contents)
    warnings = recipe.all_warnings()
    if recipe.pairing is not None and recipe.pairing.mismatches:
        warnings.append(f"the vocoder {recipe.pairing.verdict}")
    if warnings:
        logger.warning("%s", printable(f"{path}: {'; '.join(warnings)}"))
    return path


def find_not_finite(contents: Mapping[str, writer.Content]) -> list[str]:
    """Warnings of values in written contents that are not finite."""
    warnings = []
    for entry, content in contents.items():
        names = _tensors.not_finite(content) if isinstance(content, writer.TensorContent) else []
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            listed = ", ".join(names[:3]) + more
            warnings.append(f"NaN or infinite values in {entry}: {listed}")
    return warnings


def _attributes(analysis: Any) -> Mapping[str, Any]:
    if isinstance(analysis, Mapping):
        return analysis
    if dataclasses.is_dataclass(analysis):
        return {field.name: getattr(analysis, field.name) for field in dataclasses.fields(analysis)}
    return {name: value for name, value in vars(analysis).items() if not name.startswith("_")}


def _optional(state: Mapping[str, Any], key: str, *, losses: bool = False) -> dict[str, Any] | None:
    value = state.get(key)
    if value is None:
        return None
    if losses and isinstance(value, Mapping) and isinstance(value.get("final_loss"), float | np.floating):
        value = {**value, "final_loss": finite_or_none(float(value["final_loss"]))}
    return plain_object(value, f"vocoder.{key}")


def _finite_loss(training: dict[str, Any] | None) -> tuple[dict[str, Any] | None, list[str]]:
    unknown = training is not None and "final_loss" in training and training["final_loss"] is None
    return training, ["the vocoder's final_loss is stored as unknown"] if unknown else []


def _raw(value: dict[str, Any] | None, where: str) -> msgspec.Raw | Any:
    return UNSET if value is None else encode_object(value, where)
