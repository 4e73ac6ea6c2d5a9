"""Small valid models in no time: a tensor of 16 zeros, a manifest that varies, no torch."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from distillgan import _safetensors
from distillgan._safetensors import digest
from distillgan.manifest import Manifest, ModelMetadata, Vae, Vocoder, encode_metadata, encode_object
from distillgan.writer import BytesContent, write_container

TRAINING = {"epochs": 200, "final_loss": 0.0342, "training_date": "2026-02-21T10:30:00+00:00"}


DATA = bytes(64)
HEADER = _safetensors.encode_header(
    [
        msgspec.structs.replace(spec, blake3=digest(DATA))
        for spec in _safetensors.arrange([("w", "F32", (16,))])
    ],
    {},
)
COUNTS: dict[str, Any] = {
    "tensors": 1,
    "parameters": 16,
    "data_bytes": len(DATA),
    "header_bytes": len(HEADER),
    "header_digest": f"blake3:{digest(HEADER)}",
}


def model_bytes(
    model_id: str, name: str = "Rain", *, vocoder: dict[str, Any] | None = None, **known: Any
) -> bytes:
    """A container; `vocoder` holds its type and perhaps training_metadata."""
    known.setdefault("save_date", "2026-02-21T11:02:13+00:00")
    metadata = encode_metadata(ModelMetadata(model_id=model_id, name=name, **known))
    contents = {"vae.safetensors": BytesContent(HEADER + DATA)}
    parts: dict[str, Any] = {}
    if vocoder is not None:
        contents["vocoder.safetensors"] = BytesContent(HEADER + DATA)
        raw = {f"{key}_json": encode_object(vocoder[key], key) for key in vocoder if key != "type"}
        parts["vocoder"] = Vocoder(type=vocoder["type"], **raw, **COUNTS)
    manifest = Manifest(
        format="distillgan_model",
        version=1,
        written_by="distillgan 0.1.0",
        metadata_json=metadata,
        training_config_json=encode_object({}, "training_config"),
        vae=Vae(architecture="unknown", **COUNTS),
        **parts,
    )
    with tempfile.TemporaryFile() as file:
        write_container(file, lambda: manifest, contents)
        file.seek(0)
        return file.read()


def write_model(path: Path, model_id: str, name: str = "Rain", *, old: bool = True, **known: Any) -> Path:
    """Write a model file, old enough for its mtime to prove something unless `old` is false."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_bytes(model_id, name, **known))
    if old:
        age(path)
    return path


def age(path: Path, seconds: float = 60) -> None:
    """Make a file look as if it was last written `seconds` ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def work(folder: str, name: str, rounds: int) -> None:
    """What one of several processes does: add models, delete some of its own, look, all the time."""
    from distillgan.catalog import ModelLibrary

    library = ModelLibrary(folder)
    bodies = {f"{name}-{number}": model_bytes(f"{name}-{number}") for number in range(min(rounds, 50))}
    print("ready", flush=True)
    for number in range(rounds):
        model_id = f"{name}-{number % len(bodies)}"
        target = Path(folder, f"{model_id}.distillgan")
        whole = target.with_suffix(".part")
        whole.write_bytes(bodies[model_id])
        whole.replace(target)
        library.refresh()
        assert library.get(model_id) is not None
        if number % 3 == 0:
            assert library.delete(model_id)
            assert library.get(model_id) is None
