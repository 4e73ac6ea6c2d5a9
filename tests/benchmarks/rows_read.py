"""Rows of reading: a manifest, all tensors, one tensor, verify."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from data import MODELS, Data, Saved, StateDict, drop_cache
from measure import Row, Target

Build = Callable[[Data], Row]
Tensors = tuple[StateDict, StateDict]

SAFETENSORS = ("safetensors mmap", "safetensors pread")


def plans() -> Iterator[tuple[str, Build]]:
    """Each row's name and how to build it."""
    yield "read one manifest", manifest
    yield "read one manifest, every object decoded", partial(manifest, decoded=True)
    for model in MODELS:
        yield f"all tensors, {model}", partial(all_tensors, model=model)
        yield f"all tensors touched, {model}", partial(all_tensors, model=model, touch=True)
        yield f"all tensors touched, {model}, cold", partial(all_tensors, model=model, touch=True, cold=True)
    for model in MODELS:
        yield f"open and one tensor, {model}", partial(one_tensor, model=model)
        yield f"first tensor touched, {model}, cold", partial(one_tensor, model=model, cold=True)
    for model in MODELS:
        yield f"verify, {model}", partial(verify_all, model=model)


def manifest(data: Data, *, decoded: bool = False) -> Row:
    """Read the manifest of the real pair."""
    from distillgan import read_manifest

    saved = data.model("small")
    contestants: dict[str, Any] = {
        "ours": partial(_decoded_manifest, saved.ours) if decoded else partial(read_manifest, saved.ours),
        "open+read 8 KiB+close": partial(_read_start, saved.ours),
        "zipfile+json": partial(_zipfile_manifest, saved.ours),
        "safe_open+json": partial(_safetensors_manifest, saved.vae),
        "DDUF": partial(_dduf_manifest, saved.dduf),
        "torch.load mmap": partial(_load_torch, saved.torch, True),
        "torch.load": partial(_load_torch, saved.torch, False),
    }
    targets = [] if decoded else [Target(("open+read 8 KiB+close",), 3.0), Target(("DDUF",), 1 / 8)]
    size = len(json.dumps(_zipfile_manifest(saved.ours), separators=(",", ":"), ensure_ascii=False))
    name = "read one manifest" + (", every object decoded" if decoded else "")
    return Row(name, contestants, targets, note=f"a manifest of {size:,} bytes")


def all_tensors(data: Data, *, model: str, touch: bool = False, cold: bool = False) -> Row:
    """Every tensor of both components on the CPU."""
    saved = data.model(model)
    loaders = _loaders(saved)
    if not touch:
        _check_same(saved, loaders)
    contestants = {name: partial(_touch, load) if touch else load for name, load in loaders.items()}
    floor = "read the file" if touch else "map the file"
    contestants[floor] = _reader(saved.ours) if touch else partial(_map, saved.ours)
    name = f"all tensors{' touched' if touch else ''}, {model}{', cold' if cold else ''}"
    targets = [] if touch or cold else [Target(SAFETENSORS, 0.33)]
    return Row(name, contestants, targets, before=partial(_drop, saved) if cold else None)


def one_tensor(data: Data, *, model: str, cold: bool = False) -> Row:
    """Open a model and take one tensor of the VAE."""
    saved = data.model(model)
    key = saved.first_name
    contestants: dict[str, Any] = {
        "ours": lambda: _load_ours(saved.ours).state_dict[key],
        **{name: partial(_one_safetensors, saved.vae, key, name.rpartition(" ")[2]) for name in SAFETENSORS},
        ".tdz": lambda: _load_tdz(saved.tdz)["vae"].get(key),
        "DDUF": lambda: _dduf_component(saved.dduf, "vae/diffusion_pytorch_model.safetensors")[key],
        "torch.load mmap": lambda: _load_torch(saved.torch, True)["vae"][key],
        "torch.load": lambda: _load_torch(saved.torch, False)["vae"][key],
    }
    if not cold:
        return Row(f"open and one tensor, {model}", contestants, [Target(SAFETENSORS, 0.5)])
    touching = {name: partial(_touch_one, take) for name, take in contestants.items()}
    return Row(f"first tensor touched, {model}, cold", touching, before=partial(_drop, saved))


def verify_all(data: Data, *, model: str) -> Row:
    """Prove every byte, against SHA-256 of the file and against our own two checks alone."""
    from isal.isal_zlib import crc32

    from distillgan import verify

    saved = data.model(model)
    with open(saved.ours, "rb") as file:
        body = file.read()
    contestants: dict[str, Any] = {
        "ours": partial(_verified, verify, saved.ours),
        "sha256 (hashlib)": partial(_sha256, saved.ours),
        "read the file": _reader(saved.ours),
        "CRC-32 in memory": partial(crc32, body),
        "BLAKE3 in memory": partial(_blake3, body),
    }
    against = ["sha256 (hashlib)"]
    program = shutil.which("sha256sum")
    if program:
        against.append("sha256sum")
        contestants["sha256sum"] = lambda: subprocess.run([program, saved.ours], stdout=subprocess.DEVNULL)
    limit = [] if model == "wide" else [Target(tuple(against), 0.5)]
    return Row(f"verify, {model}", contestants, limit)


def _decoded_manifest(path: str) -> None:
    from distillgan import read_manifest

    manifest = read_manifest(path)
    _ = manifest.metadata, manifest.spectrogram_config, manifest.training_config, manifest.latent_analysis
    if manifest.vocoder is not None:
        _ = manifest.vocoder.config, manifest.vocoder.training_metadata


def _read_start(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 8192)
    finally:
        os.close(fd)


def _zipfile_manifest(path: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("manifest.json"))


def _safetensors_manifest(path: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["manifest"])


def _dduf_manifest(path: str) -> Any:
    from huggingface_hub import read_dduf_file

    return json.loads(read_dduf_file(path)["model_index.json"].read_text())


def _loaders(saved: Saved) -> dict[str, Callable[[], Tensors]]:
    return {
        "ours": partial(_all_ours, saved),
        **{name: partial(_all_safetensors, saved, name.rpartition(" ")[2]) for name in SAFETENSORS},
        ".tdz": partial(_all_tdz, saved),
        "DDUF": partial(_all_dduf, saved),
        "torch.load mmap": partial(_all_torch, saved, True),
        "torch.load": partial(_all_torch, saved, False),
    }


def _load_ours(path: str) -> Any:
    from distillgan.torch import load_model

    return load_model(path)


def _all_ours(saved: Saved) -> Tensors:
    loaded = _load_ours(saved.ours)
    return dict(loaded.state_dict), dict(loaded.vocoder_state["state_dict"])


def _all_safetensors(saved: Saved, backend: str) -> Tensors:
    from safetensors.torch import load_file

    return load_file(saved.vae, backend=backend), load_file(saved.vocoder, backend=backend)


def _all_tdz(saved: Saved) -> Tensors:
    loaded = _load_tdz(saved.tdz)
    return dict(loaded["vae"].items()), dict(loaded["vocoder"].items())


def _load_tdz(path: str) -> Any:
    from tensordict import TensorDict

    return TensorDict.load(path)


def _all_dduf(saved: Saved) -> Tensors:
    from huggingface_hub import read_dduf_file
    from safetensors.torch import load

    entries = read_dduf_file(saved.dduf)
    with entries["vae/diffusion_pytorch_model.safetensors"].as_mmap() as data:
        vae = load(data)
    with entries["vocoder/model.safetensors"].as_mmap() as data:
        return vae, load(data)


def _dduf_component(path: str, member: str) -> StateDict:
    from huggingface_hub import read_dduf_file
    from safetensors.torch import load

    with read_dduf_file(path)[member].as_mmap() as data:
        return load(data)


def _all_torch(saved: Saved, mapped: bool) -> Tensors:
    loaded = _load_torch(saved.torch, mapped)
    return loaded["vae"], loaded["vocoder"]


def _load_torch(path: str, mapped: bool) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _one_safetensors(path: str, key: str, backend: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(path, "pt", backend=backend) as file:
        return file.get_tensor(key)


def _touch(load: Callable[[], Tensors]) -> None:
    for tensors in load():
        for tensor in tensors.values():
            tensor.sum()


def _touch_one(take: Callable[[], torch.Tensor]) -> None:
    take().sum()


def _check_same(saved: Saved, loaders: dict[str, Callable[[], Tensors]]) -> None:
    """Every contestant must have given the tensors that were saved."""
    for name, load in loaders.items():
        for loaded, expected in zip(load(), (saved.pair.vae, saved.pair.vocoder), strict=True):
            if loaded.keys() != expected.keys():
                raise AssertionError(f"{name} gives other names")
            for key, tensor in expected.items():
                if not torch.equal(loaded[key], tensor):
                    raise AssertionError(f"{name} gives another {key}")


def _drop(saved: Saved, _: str) -> None:
    for path in saved.files:
        drop_cache(path)


def _map(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        mmap.mmap(fd, os.fstat(fd).st_size, access=mmap.ACCESS_COPY).close()
    finally:
        os.close(fd)


def _reader(path: str) -> Callable[[], None]:
    """Reads the whole file into memory that is there already."""
    buffer = bytearray(os.path.getsize(path))

    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            view = memoryview(buffer)
            while view and (count := file.readinto(view)):
                view = view[count:]

    return read


def _verified(verify: Callable[[str], list[Any]], path: str) -> None:
    if verify(path):
        raise AssertionError("a sound file is said to be damaged")


def _sha256(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _blake3(body: bytes) -> bytes:
    import blake3

    return blake3.blake3(body).digest()
