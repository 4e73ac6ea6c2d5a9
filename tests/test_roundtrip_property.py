"""Every valid model survives pack, open, save and open with identical bits; equal input, equal bytes."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_helpers import same_bits

from distillgan import ModelMetadata, verify
from distillgan.edit import EDITABLE, edit_metadata
from distillgan.manifest import _KNOWN_FIELDS
from distillgan.torch import load_model, save_model
from distillgan.torch._tensors import DTYPES

QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
LONG = settings(QUICK, max_examples=4000, derandomize=False, print_blob=True)
ANY = st.characters(exclude_categories=["Cs"])
SHOWN = st.characters(exclude_categories=["Cs", "Cc"])  # what a displayed string may hold
WHOLE = st.integers(-(2**63), 2**63)
COUNT = st.integers(0, 2**63 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALAR = st.none() | st.booleans() | WHOLE | FINITE | st.text(ANY, max_size=8)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(ANY, max_size=5), inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(st.text(ANY, max_size=6), VALUE, max_size=4)
SHAPE = st.lists(st.integers(0, 5), max_size=4).map(tuple)
NAME = st.text(SHOWN, max_size=12).filter(lambda name: name != "__metadata__")
EXTRA_KEY = st.text(ANY, max_size=6).filter(lambda key: key not in _KNOWN_FIELDS)
ARRAY_TYPES = ("bool", "int8", "uint16", "int64", "float16", "float32", "float64")


@st.composite
def tensors(draw: Any) -> torch.Tensor:
    """A tensor of any dtype and shape, of random bits, contiguous or not."""
    dtype, shape = draw(st.sampled_from(list(DTYPES))), draw(SHAPE)
    seed = draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    top = 2 if dtype == torch.bool else 256
    data = torch.randint(0, top, (size,), dtype=torch.uint8, generator=generator)
    tensor = data.view(dtype).view(shape) if size else torch.empty(shape, dtype=dtype)
    return tensor.transpose(0, -1) if shape and draw(st.booleans()) else tensor


@st.composite
def states(draw: Any) -> dict[str, torch.Tensor]:
    """A state dict, some of whose tensors are tied or views of one memory."""
    state: dict[str, torch.Tensor] = draw(st.dictionaries(NAME, tensors(), max_size=6))
    for name in draw(st.lists(NAME, max_size=2)):
        if state and name not in state:
            tied = state[draw(st.sampled_from(sorted(state)))]
            state[name] = tied if draw(st.booleans()) else tied[..., :1] if tied.dim() else tied.detach()
    return state


@st.composite
def metadata(draw: Any) -> ModelMetadata:
    """Everything that people may say of a model."""
    text = st.text(SHOWN, max_size=20)
    return ModelMetadata(
        model_id=draw(st.text(SHOWN, min_size=1, max_size=40)),
        name=draw(text),
        description=draw(st.text(SHOWN | st.sampled_from("\t\n"), max_size=40)),
        tags=draw(st.lists(text, max_size=3)),
        dataset_name=draw(text),
        dataset_file_count=draw(st.none() | COUNT),
        dataset_total_duration_s=draw(st.none() | FINITE),
        training_date=draw(st.sampled_from(["", "2026-02-21T10:30:00+00:00", "2026-02-21"])),
        save_date=draw(st.text(SHOWN, min_size=1, max_size=20)),
        training_epochs=draw(st.none() | COUNT),
        final_train_loss=draw(st.none() | FINITE),
        final_val_loss=draw(st.none() | FINITE),
        extra=draw(st.dictionaries(EXTRA_KEY, VALUE, max_size=3)),
    )


@st.composite
def analyses(draw: Any) -> dict[str, Any]:
    """A latent analysis: arrays of random bits, and values."""
    found: dict[str, Any] = {}
    for key in draw(st.lists(st.text(ANY, max_size=5), max_size=2)):
        shape, kind = draw(SHAPE), np.dtype(draw(st.sampled_from(ARRAY_TYPES)))
        random = np.random.default_rng(draw(st.integers(0, 2**32)))
        raw = random.integers(
            0, 2 if kind.kind == "b" else 256, math.prod(shape) * kind.itemsize, dtype=np.uint8
        )
        found[key] = raw.view(kind).reshape(shape)
    return found | {"n_active_components": draw(st.integers(0, 64))}


MODELS = st.fixed_dictionaries(
    {
        "model": states(),
        "spectrogram_config": st.none() | OBJECT,
        "training_config": OBJECT,
        "metadata": metadata(),
        "analysis": st.none() | analyses(),
        "vocoder_state": st.none()
        | st.fixed_dictionaries(
            {"type": st.text(SHOWN, max_size=8), "state_dict": states()},
            optional={"config": OBJECT, "training_metadata": OBJECT},
        ),
    }
)


@QUICK
@given(MODELS)
def test_a_model_survives_two_round_trips_bit_for_bit(model: dict[str, Any]) -> None:
    check(model)


@pytest.mark.stress
@LONG
@given(MODELS)
def test_thousands_of_models_survive_two_round_trips_bit_for_bit(model: dict[str, Any]) -> None:
    check(model)


@QUICK
@given(MODELS, st.text(SHOWN, max_size=10), st.lists(st.text(SHOWN, max_size=5), max_size=2))
def test_an_edit_and_its_undoing_give_the_same_bytes(
    model: dict[str, Any], name: str, tags: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = saved(model, Path(folder))
        before, about = path.read_bytes(), load_model(path).metadata
        if not name.strip() or not about.name.strip():
            return
        edit_metadata(path, name=name, tags=tags)
        assert verify(path) == []
        assert {"name", "tags"} <= set(EDITABLE)
        edit_metadata(path, name=about.name, tags=about.tags)
        assert path.read_bytes() == before


def check(model: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = saved(model, Path(folder, "first"))
        again = saved(model, Path(folder, "again"))
        assert first.read_bytes() == again.read_bytes()
        assert verify(first) == []
        loaded = load_model(first, verify=True)
        check_loaded(loaded, model)
        second = saved(parts_of(loaded), Path(folder, "second"))
        assert second.read_bytes() == first.read_bytes()
        check_loaded(load_model(second, verify=True), model)


def saved(model: dict[str, Any], folder: Path) -> Path:
    """Save a model; that its vocoder does not match, or holds a NaN, is no news here."""
    logging.disable(logging.WARNING)
    try:
        return save_model(**model, models_dir=folder)
    finally:
        logging.disable(logging.NOTSET)


def parts_of(loaded: Any) -> dict[str, Any]:
    """A loaded model as the arguments that save it again."""
    return {
        "model": loaded.state_dict,
        "spectrogram_config": loaded.spectrogram_config,
        "training_config": loaded.training_config,
        "metadata": loaded.metadata,
        "analysis": loaded.analysis,
        "vocoder_state": loaded.vocoder_state,
    }


def check_loaded(loaded: Any, model: dict[str, Any]) -> None:
    """Everything that was given comes back; a loss of a vocoder stays what it was."""
    check_state(loaded.state_dict, model["model"])
    assert spelled(loaded.spectrogram_config) == spelled(model["spectrogram_config"])
    assert spelled(loaded.training_config) == spelled(model["training_config"])
    check_metadata(loaded.metadata, model["metadata"])
    check_analysis(loaded.analysis, model["analysis"])
    given, found = model["vocoder_state"], loaded.vocoder_state
    assert (given is None) == (found is None)
    if given is not None:
        check_state(found["state_dict"], given["state_dict"])
        for key in ("type", "config", "training_metadata"):
            assert spelled(found[key]) == spelled(given.get(key))


def spelled(value: Any) -> str:
    """JSON in which 1, 1.0 and true, 0.0 and -0.0, and two orders of keys differ."""
    return json.dumps(value)


def check_state(found: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    assert set(found) == set(given)
    for name, tensor in given.items():
        assert same_bits(found[name], tensor), name


def check_metadata(found: ModelMetadata, given: ModelMetadata) -> None:
    for name in (*_KNOWN_FIELDS, "extra"):
        if name not in ("has_analysis", "n_active_components"):
            assert spelled(getattr(found, name)) == spelled(getattr(given, name)), name


def check_analysis(found: dict[str, Any] | None, given: dict[str, Any] | None) -> None:
    assert (found is None) == (given is None)
    for key, value in (given or {}).items():
        assert found is not None
        if isinstance(value, np.ndarray):
            assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape)
            assert found[key].tobytes() == value.tobytes()
        else:
            assert spelled(found[key]) == spelled(value)
