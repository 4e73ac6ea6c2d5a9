"""What the library page tells of one file: all that `distillgan inspect` knows, of damaged files too.

Reads manifests and headers, never weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec

from . import labels, signature
from ._archive import FIRST_NAME
from ._safetensors import TensorSpec, digest
from .container import PREVIEW_NAME, SIGNATURE_NAME, Container, read_status
from .errors import DistillganError, FormatError
from .labels import size_text
from .manifest import Manifest, ModelMetadata
from .pairing import Pairing, pairing_of

T = TypeVar("T")
Ask = Callable[[Callable[[], T], T], T]


class Glance(NamedTuple):
    """What a card shows beyond its entry: whether it can be heard, and why its vocoder does not match."""

    has_preview: bool = False
    mismatches: tuple[str, ...] = ()


@dataclass
class ModelFacts:
    """Everything that the page tells of a file; `problems` are what kept it from telling more."""

    path: str
    metadata: ModelMetadata
    fields: list[tuple[str, str]] = field(default_factory=list)
    pairing: Pairing | None = None
    analysis: dict[str, Any] | None = None
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[str, dict[str, TensorSpec]] = field(default_factory=dict)
    has_preview: bool = False
    problems: list[str] = field(default_factory=list)


def glance(path: str | os.PathLike[str], has_vocoder: bool) -> Glance:
    """What a card shows beyond its entry; a file that cannot be read shows nothing more."""
    try:
        if not has_vocoder:
            return Glance(read_status(path, transport=False)[0].preview is not None)
        with Container.open(path) as container:
            pairing = pairing_of(container)
            return Glance(container.manifest.preview is not None, pairing.mismatches if pairing else ())
    except (DistillganError, OSError):
        return Glance()


def read_facts(path: str | os.PathLike[str]) -> ModelFacts:
    """Everything but the weights. Raises FormatError if not even the manifest can be read."""
    container, errors = Container.salvage(path)
    with container:
        return _facts(container, [str(error.at("")) for error in errors])


def read_sound(path: str | os.PathLike[str]) -> bytes | None:
    """The FLAC bytes of a model's preview, CRC checked; None without one."""
    with Container.open(path) as container:
        return container.read_entry(PREVIEW_NAME)


def is_signed(path: str | os.PathLike[str]) -> bool:
    """Whether a file has a signature, which any edit removes; a damaged file is none to sign."""
    try:
        with Container.open(path) as container:
            return container.entry(SIGNATURE_NAME) is not None
    except (DistillganError, OSError):
        return False


def _facts(container: Container, problems: list[str]) -> ModelFacts:
    def ask(question: Callable[[], T], unknown: T) -> T:
        """The answer, or `unknown` where the file is too damaged to give it."""
        try:
            return question()
        except FormatError as error:
            error.path = None
            if str(error) not in problems:
                problems.append(str(error))
            return unknown

    manifest = container.manifest
    pairing = ask(lambda: pairing_of(container), None)
    return ModelFacts(
        path=container.path,
        metadata=manifest.metadata,
        fields=list(_fields(container, ask)),
        pairing=pairing,
        analysis=ask(lambda: manifest.latent_analysis, None),
        configs={name: value for name, value in _configs(manifest, ask) if value},
        tensors={name: _tensors(container, name, ask) for name in container.components},
        has_preview=manifest.preview is not None,
        problems=problems,
    )


def _tensors(container: Container, component: str, ask: Ask[Any]) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = ask(lambda: container.tensors(component), {})
    return specs


def _configs(manifest: Manifest, ask: Ask[Any]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    vocoder = manifest.vocoder
    if vocoder is not None:
        yield "Vocoder configuration", ask(lambda: vocoder.config, None)
        yield "Vocoder training", ask(lambda: vocoder.training_metadata, None)
    yield "Spectrogram", ask(lambda: manifest.spectrogram_config, None)
    yield "Training configuration", ask(lambda: manifest.training_config, None)


def _fields(container: Container, ask: Ask[Any]) -> Iterator[tuple[str, str]]:
    manifest, metadata = container.manifest, container.manifest.metadata
    yield "File", f"{container.path} ({size_text(container.size)})"
    yield "Id", metadata.model_id
    yield from ((label.capitalize(), text) for label, text in labels.training_facts(metadata))
    if metadata.has_analysis:
        yield "Analysis", f"{metadata.n_active_components} active components"
    vae = manifest.vae
    yield "VAE", labels.component_text(vae.architecture, vae, vae.latent_dim)
    if (vocoder := manifest.vocoder) is not None:
        told = labels.vocoder_facts(ask(lambda: vocoder.training_metadata, None))
        yield "Vocoder", labels.vocoder_long(vocoder.type, *told)
        yield "", labels.component_text(vocoder.type, vocoder)
    else:
        yield "Vocoder", "(none)"
    if manifest.preview is not None:
        yield "Preview", labels.preview_text(manifest.preview)
    yield "Saved", f"{metadata.save_date} by {manifest.written_by}"
    yield "BLAKE3", ask(lambda: digest(container.read_entry(FIRST_NAME) or b""), "unknown")
    if any(entry.crc < 0 for entry in container.entries):
        yield "Signature", "unknown: the archive is damaged"
    else:
        yield "Signature", ask(lambda: signature.summary(container.read_entry(SIGNATURE_NAME)), "unreadable")
    for key, value in metadata.extra.items():
        yield key, value if isinstance(value, str) else msgspec.json.encode(value).decode()
