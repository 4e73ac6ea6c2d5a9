"""`distillgan inspect`: what a file is, without touching its weights."""

from __future__ import annotations

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
from distillgan.pairing import UNRECORDED, Pairing, check_pairing

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


def pairing_of(container: Container) -> Pairing | None:
    """How the container's vocoder goes with its model; None without a vocoder."""
    vocoder = container.manifest.vocoder
    if vocoder is None:
        return None
    return check_pairing(
        container.manifest.spectrogram_config, vocoder.config, container.header("vocoder").tensors.values()
    )


def manifest_digest(container: Container) -> str:
    """BLAKE3 of the manifest's bytes, which vouches for every other byte."""
    return digest(container.read_entry(FIRST_NAME) or b"")


def _fields(container: Container) -> Iterator[tuple[str, str]]:
    manifest, metadata = container.manifest, container.manifest.metadata
    yield "file", f"{container.path} ({size_text(container.size)})"
    yield "id", metadata.model_id
    if metadata.description:
        yield "description", metadata.description
    if metadata.tags:
        yield "tags", ", ".join(metadata.tags)
    yield from _training(manifest)
    yield "VAE", _component(manifest.vae.architecture, manifest.vae.latent_dim, manifest.vae)
    yield from _vocoder(container)
    if manifest.preview is not None:
        preview = manifest.preview
        yield (
            "preview",
            f"{preview.duration_s:.1f} s at {preview.sample_rate} Hz, {size_text(preview.bytes)} FLAC",
        )
    yield "saved", f"{metadata.save_date} by {manifest.written_by}"
    yield "blake3", manifest_digest(container)
    yield "signature", _signature(container)
    for key, value in metadata.extra.items():
        yield key, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _training(manifest: Manifest) -> Iterator[tuple[str, str]]:
    metadata = manifest.metadata
    count, seconds = metadata.dataset_file_count, metadata.dataset_total_duration_s
    facts = [f"{count} files" if count is not None else "", f"{seconds:.1f} s" if seconds is not None else ""]
    dataset = ": ".join(filter(None, (metadata.dataset_name, ", ".join(filter(None, facts)))))
    if dataset:
        yield "dataset", dataset
    epochs, train, val = metadata.training_epochs, metadata.final_train_loss, metadata.final_val_loss
    parts = [
        f"{epochs} epochs" if epochs is not None else "",
        f"train loss {train:.4f}" if train is not None else "",
        f"validation loss {val:.4f}" if val is not None else "",
        metadata.training_date[:10],
    ]
    if any(parts):
        yield "training", ", ".join(filter(None, parts))
    config = manifest.spectrogram_config
    if config:
        shown = {"f_max": "half the rate"} if config.get("f_max", 0) is None else {}
        yield "spectrogram", ", ".join(f"{key} {value}" for key, value in (config | shown).items())
    if metadata.has_analysis:
        yield "analysis", f"{metadata.n_active_components} active components"


def _component(kind: str, latent_dim: int | None, part: Any) -> str:
    latent = f", latent size {latent_dim}" if latent_dim is not None else ""
    counts = f"{part.tensors} tensors, {part.parameters:,} parameters, {size_text(part.data_bytes)}"
    return f"{kind}{latent}; {counts}"


def _vocoder(container: Container) -> Iterator[tuple[str, str]]:
    vocoder, pairing = container.manifest.vocoder, pairing_of(container)
    if vocoder is None or pairing is None:
        yield "vocoder", "(none)"
        return
    training = vocoder.training_metadata or {}
    facts = (training.get(key) for key in ("epochs", "final_loss", "training_date"))
    yield "vocoder", labels.vocoder_long(vocoder.type, *facts)
    yield "", _component(vocoder.type, None, vocoder)
    warning = "warning: the vocoder " if pairing.mismatches else ""
    unknown = f"; unknown: {', '.join(pairing.unknown)}" if pairing.unknown else ""
    yield "pairing", f"{warning}{pairing.verdict}{unknown} ({UNRECORDED})"


def _signature(container: Container) -> str:
    armor = container.read_entry(SIGNATURE_NAME)
    if armor is None:
        return "none"
    found = signature.decode_armor(armor)
    return f"{found.key_type} {found.fingerprint}, unchecked (distillgan verify --allowed-signers)"


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
