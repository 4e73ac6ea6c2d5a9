"""`distillgan inspect`: what a file is, without touching its weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from distillgan import labels, signature
from distillgan._archive import FIRST_NAME
from distillgan._safetensors import digest
from distillgan.container import SIGNATURE_NAME, Container
from distillgan.labels import size_text
from distillgan.manifest import Manifest
from distillgan.pairing import UNRECORDED, pairing_of

from ._shared import (
    file_argument,
    find_file,
    json_option,
    library_option,
    show,
    show_fields,
    show_json,
    show_table,
)


@click.command()
@file_argument
@click.option("--tensors", is_flag=True, help="List every tensor with dtype, shape and size.")
@json_option
@library_option
def inspect(file: str, tensors: bool, as_json: bool, library: Path | None) -> None:
    """Tell what FILE is: the model, its training, its vocoder, sizes and digest.

    Reads the manifest and the headers, never the weights. --json gives {"path", "size", "blake3",
    "manifest", "entries", "pairing", "signature", "tensors"}; what the model does not have is absent.
    """
    with Container.open(find_file(file, library)) as container:
        if as_json:
            show_json(_as_json(container, tensors))
            return
        show(container.manifest.metadata.name)
        show_fields(_fields(container))
        if tensors:
            for component in container.components:
                _show_tensors(container, component)


def manifest_digest(container: Container) -> str:
    """BLAKE3 of the manifest's bytes, which vouches for every other byte."""
    return digest(container.read_entry(FIRST_NAME) or b"")


def _fields(container: Container) -> Iterator[tuple[str, str]]:
    manifest, metadata = container.manifest, container.manifest.metadata
    size, packed = size_text(container.size), os.path.getsize(container.path)
    sizes = size if packed == container.size else f"{size_text(packed)}, unpacked {size}"
    yield "file", f"{container.path} ({sizes})"
    yield "id", metadata.model_id
    if metadata.description:
        yield "description", metadata.description
    if metadata.tags:
        yield "tags", ", ".join(metadata.tags)
    yield from _training(manifest)
    yield "VAE", labels.component_text(manifest.vae.architecture, manifest.vae, manifest.vae.latent_dim)
    yield from _vocoder(container)
    if manifest.preview is not None:
        yield "preview", labels.preview_text(manifest.preview)
    yield "saved", f"{metadata.save_date} by {manifest.written_by}"
    yield "blake3", manifest_digest(container)
    yield "signature", signature.summary(container.read_entry(SIGNATURE_NAME))
    for key, value in metadata.extra.items():
        yield key, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _training(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield from labels.training_facts(manifest.metadata)
    config = manifest.spectrogram_config
    if config:
        shown = {"f_max": "half the rate"} if config.get("f_max", 0) is None else {}
        yield "spectrogram", ", ".join(f"{key} {value}" for key, value in (config | shown).items())
    if manifest.metadata.has_analysis:
        yield "analysis", f"{manifest.metadata.n_active_components} active components"


def _vocoder(container: Container) -> Iterator[tuple[str, str]]:
    vocoder, pairing = container.manifest.vocoder, pairing_of(container)
    if vocoder is None or pairing is None:
        yield "vocoder", "(none)"
        return
    yield "vocoder", labels.vocoder_long(vocoder.type, *labels.vocoder_facts(vocoder.training_metadata))
    yield "", labels.component_text(vocoder.type, vocoder)
    warning = "warning: the vocoder " if pairing.mismatches else ""
    unknown = f"; unknown: {', '.join(pairing.unknown)}" if pairing.unknown else ""
    yield "pairing", f"{warning}{pairing.verdict}{unknown} ({UNRECORDED})"


def _show_tensors(container: Container, component: str) -> None:
    show()
    show(component)
    rows = [
        (
            name if spec.name == name else f"{name} = {spec.name}",
            spec.dtype,
            "×".join(map(str, spec.shape)) or "scalar",
            size_text(spec.nbytes),
        )
        for name, spec in container.tensors(component).items()
    ]
    show_table(("Tensor", "Dtype", "Shape", "Size"), rows, right=("Size",))


def _as_json(container: Container, tensors: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "path": container.path,
        "size": container.size,
        "blake3": manifest_digest(container),
        "manifest": msgspec.json.decode(container.read_entry(FIRST_NAME) or b""),
        "entries": [{"name": e.name, "offset": e.offset, "size": e.size} for e in container.entries],
    }
    pairing = pairing_of(container)
    if pairing is not None:
        answer["pairing"] = {"verdict": pairing.verdict, **pairing._asdict()}
    armor = container.read_entry(SIGNATURE_NAME)
    if armor is not None:
        found = signature.decode_armor(armor)
        answer["signature"] = {"key_type": found.key_type, "fingerprint": found.fingerprint, "checked": False}
    if tensors:
        answer["tensors"] = {
            component: {
                name: {
                    "stored": s.name,
                    "dtype": s.dtype,
                    "shape": s.shape,
                    "bytes": s.nbytes,
                    "blake3": s.blake3,
                }
                for name, s in container.tensors(component).items()
            }
            for component in container.components
        }
    return answer
