"""How a model's training, components, vocoder and sizes read in a table and in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ._index import ModelEntry
    from .manifest import ModelMetadata, Preview, Vae, Vocoder

_MAX_COUNT = 2**63 - 1
_READABLE = 1e6


class VocoderFacts(NamedTuple):
    """How a vocoder was trained, as far as it is known."""

    epochs: int | None = None
    final_loss: float | None = None
    training_date: str = ""


def training_facts(about: ModelMetadata | ModelEntry) -> Iterator[tuple[str, str]]:
    """What is known of the dataset and of the training, by those names: `Field: 41 files, 63.5 s`."""
    count, seconds = about.dataset_file_count, about.dataset_total_duration_s
    sizes = ("" if count is None else f"{count} files", "" if seconds is None else f"{seconds:.1f} s")
    dataset = ": ".join(filter(None, (about.dataset_name, ", ".join(filter(None, sizes)))))
    if dataset:
        yield "dataset", dataset
    epochs, train, val = about.training_epochs, about.final_train_loss, about.final_val_loss
    training = (
        "" if epochs is None else f"{epochs} epochs",
        "" if train is None else f"train loss {loss_text(train)}",
        "" if val is None else f"validation loss {loss_text(val)}",
        about.training_date[:10],
    )
    if any(training):
        yield "training", ", ".join(filter(None, training))


def loss_text(loss: float) -> str:
    """A loss to four places; one beyond all measure in short, as it would push all else aside."""
    return f"{loss:.4f}" if abs(loss) < _READABLE else f"{loss:.3g}"


def component_text(kind: str, part: Vae | Vocoder, latent_dim: int | None = None) -> str:
    """A component in a line: `conv_vae, latent size 8; 57 tensors, 1,085,464 parameters, 4.3 MB`."""
    latent = "" if latent_dim is None else f", latent size {latent_dim}"
    counts = f"{part.tensors} tensors, {part.parameters:,} parameters, {size_text(part.data_bytes)}"
    return f"{kind}{latent}; {counts}"


def preview_text(preview: Preview) -> str:
    """A preview in a line: `3.2 s at 48000 Hz, 183.0 kB FLAC`."""
    return f"{preview.duration_s:.1f} s at {preview.sample_rate} Hz, {size_text(preview.bytes)} FLAC"


def vocoder_facts(training_metadata: Mapping[str, object] | None) -> VocoderFacts:
    """What a vocoder's free-form `training_metadata` tells; junk counts as unknown."""
    told = training_metadata or {}
    return clean_facts(told.get("epochs"), told.get("final_loss"), told.get("training_date"))


def clean_facts(epochs: object, final_loss: object, training_date: object) -> VocoderFacts:
    """The same from single values of any type."""
    return VocoderFacts(_count(epochs), _loss(final_loss), _date(training_date))


def vocoder_name(vocoder_type: str) -> str:
    """The family's name: every `hifigan…` is HiFi-GAN, another type reads as itself."""
    return "HiFi-GAN" if vocoder_type.startswith("hifigan") else vocoder_type


def vocoder_short(vocoder_type: str, epochs: object = None) -> str:
    """For a table's column: `HiFi-GAN (200ep)`, or the name alone."""
    known = _count(epochs)
    name = vocoder_name(vocoder_type)
    return name if known is None else f"{name} ({known}ep)"


def vocoder_long(
    vocoder_type: str, epochs: object = None, final_loss: object = None, training_date: object = ""
) -> str:
    """For a row of its own: `HiFi-GAN (200 epochs, loss 0.0342, trained 2026-02-21)`."""
    facts = clean_facts(epochs, final_loss, training_date)
    parts = []
    if facts.epochs is not None:
        parts.append("1 epoch" if facts.epochs == 1 else f"{facts.epochs} epochs")
    if facts.final_loss is not None:
        parts.append(f"loss {loss_text(facts.final_loss)}")
    if facts.training_date:
        parts.append(f"trained {facts.training_date[:10]}")
    name = vocoder_name(vocoder_type)
    return f"{name} ({', '.join(parts)})" if parts else name


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def _loss(value: object) -> float | None:
    return float(value) if type(value) in (int, float) and _is_finite(value) else None  # type: ignore[arg-type]


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond every float
        return False


def _date(value: object) -> str:
    return value if type(value) is str else ""


def size_text(count: int) -> str:
    """A size in bytes for people: powers of 1,000, as file managers show them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return ""
