"""Saving faithfully: every tensor that a container can hold, and an error that names the others."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import V1_FILE, names_in, python
from torch_helpers import (
    SPECTROGRAM,
    conv_vae,
    fixed_metadata,
    hifigan_state,
    raw,
    round_trip,
    same_bits,
    save,
    small_state,
    vocoder_state,
)

from distillgan import (
    CheckpointError,
    Container,
    DistillganError,
    FormatError,
    ModelMetadata,
    read_manifest,
    verify,
)
from distillgan.torch import load_model, save_model
from distillgan.torch._tensors import DTYPES

ALL_DTYPES = sorted(DTYPES, key=str)


def random_bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, dtype=torch.bool)
    count = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    return torch.randint(0, 256, (count,), dtype=torch.uint8).view(dtype).view(shape)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (5,), (16, 4), (2, 3, 4, 5)], ids=str)
def test_a_tensor_of_any_dtype_and_shape_keeps_its_bits(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensor = random_bits(dtype, *shape) if shape else random_bits(dtype, 1)[0]
    assert same_bits(round_trip(tmp_path, {"w": tensor})["w"], tensor)


def test_every_dtype_that_torch_and_safetensors_share_is_known() -> None:
    from safetensors.torch import _TYPES

    assert set(_TYPES.values()) <= set(DTYPES)


BASE = torch.arange(24.0).view(4, 6)
COMPLEX = torch.complex(torch.arange(6.0), torch.arange(6.0) + 1)
VIEWS = {
    "transposed": BASE.t(),
    "strided": BASE[::2, 1::3],
    "offset": BASE.reshape(-1)[5:],
    "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 5),
    "expanded scalar": torch.tensor(3.0).expand(4, 4),
    "channels last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "conjugate": COMPLEX.conj(),
    "conjugate transposed": COMPLEX.view(2, 3).conj().t(),
    "negative": COMPLEX.conj().imag,
    "imaginary": COMPLEX.imag,
    "real": torch.view_as_real(COMPLEX),
    "as strided": BASE.as_strided((3, 3), (1, 2), 2),
    "gradient": torch.ones(3, requires_grad=True),
    "parameter": torch.nn.Parameter(torch.rand(3)),
    "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_stored_as_its_values_read(name: str, tmp_path: Path) -> None:
    tensor = VIEWS[name]
    before = raw(tensor)
    found = round_trip(tmp_path, {"w": tensor})["w"]
    assert same_bits(found, tensor.detach())
    assert raw(tensor) == before


def test_conjugate_and_negative_bits_are_those_that_torch_sets() -> None:
    assert VIEWS["conjugate"].is_conj()
    assert VIEWS["negative"].is_neg()


def test_tied_tensors_are_stored_once_under_the_least_name_and_stay_tied(tmp_path: Path) -> None:
    weight = torch.rand(64, 64)
    path = save(
        tmp_path, {"z": weight, "a.b": weight.view(64, 64), "m": weight.detach(), "copy": weight.clone()}
    )
    assert read_manifest(path).vae.tensors == 2
    with Container.open(path) as container:
        assert container.header("vae").aliases == {"m": "a.b", "z": "a.b"}
    state = load_model(path).state_dict
    assert state["z"].data_ptr() == state["a.b"].data_ptr() == state["m"].data_ptr()
    assert state["copy"].data_ptr() != state["z"].data_ptr()


@pytest.mark.parametrize(
    "pair",
    [
        (BASE, BASE.t()), (BASE, BASE[:2]), (BASE.reshape(-1), BASE), (COMPLEX, COMPLEX.conj()),
        (torch.view_as_real(COMPLEX), COMPLEX), (BASE.view(torch.int32), BASE), (BASE[:2], BASE[2:]),
        (COMPLEX.conj().imag, COMPLEX.imag),
    ],
)  # fmt: skip
def test_what_shares_memory_but_is_not_the_same_tensor_is_stored_apart(
    pair: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    found = round_trip(tmp_path, {"a": pair[0], "b": pair[1]})
    assert same_bits(found["a"], pair[0])
    assert same_bits(found["b"], pair[1])
    assert read_manifest(tmp_path / "model.distillgan").vae.tensors == 2


def test_empty_tensors_are_not_tied_by_having_no_memory(tmp_path: Path) -> None:
    found = round_trip(tmp_path, {"a": torch.empty(0), "b": torch.empty(0), "c": torch.empty(0, 2)})
    assert [tuple(found[name].shape) for name in "abc"] == [(0,), (0,), (0, 2)]
    assert read_manifest(tmp_path / "model.distillgan").vae.tensors == 3


def test_twelve_views_of_one_storage_are_twelve_tensors(tmp_path: Path) -> None:
    flat = torch.rand(12 * 35)
    state = {f"lstm.{i}": flat[35 * i : 35 * (i + 1)].view(5, 7) for i in range(12)}
    found = round_trip(tmp_path, state)
    assert all(same_bits(found[name], state[name]) for name in state)
    assert (tmp_path / "model.distillgan").stat().st_size < 20_000


def test_a_slice_does_not_bring_the_rest_of_its_storage(tmp_path: Path) -> None:
    path = save(tmp_path, {"w": torch.zeros(1_000_000)[:10]})
    assert path.stat().st_size < 20_000


def spoiled(**extra: Any) -> dict[str, Any]:
    return small_state() | extra


class Subclass(torch.Tensor):
    pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sparse", lambda: torch.eye(3).to_sparse()),
        ("sparse_csr", lambda: torch.eye(3).to_sparse_csr()),
        ("quantized", lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
        ("meta", lambda: torch.empty(3, device="meta")),
        ("complex128", lambda: torch.ones(3, dtype=torch.complex128)),
        ("complex32", lambda: torch.ones(3, dtype=torch.complex32)),
        ("dict", lambda: {"a": 1}),
        ("int", lambda: 3),
        ("None", lambda: None),
        ("array", lambda: np.ones(3)),
        ("subclass", lambda: torch.ones(3).as_subclass(Subclass)),
        ("uninitialized", lambda: torch.nn.parameter.UninitializedParameter()),
    ],
)
def test_what_a_container_cannot_hold_is_an_error_that_names_the_key(
    kind: str, make: Any, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"layer\.odd"):
        save(tmp_path, spoiled(**{"layer.odd": make()}))
    assert names_in(tmp_path) == []


def test_extra_state_is_an_error_that_names_it(tmp_path: Path) -> None:
    class Layer(torch.nn.Linear):
        def get_extra_state(self) -> Any:
            return {"version": 1}

    with pytest.raises(CheckpointError, match=r"0\._extra_state"):
        save(tmp_path, torch.nn.Sequential(Layer(2, 2)))


@pytest.mark.parametrize("key", [3, None, ("a", "b"), b"w"], ids=repr)
def test_a_key_that_is_no_text_is_an_error_that_names_it(key: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path, spoiled() | {key: torch.ones(1)})
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize("name", ["__metadata__", "a\nb", "a\x1b[31mb", "\x85", "\x7f", "\ud800"])
def test_a_name_that_no_header_can_hold_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path, spoiled(**{name: torch.ones(1)}))
    assert repr(name) in str(caught.value)
    with pytest.raises(CheckpointError):
        save(tmp_path, vocoder_state=vocoder_state(state_dict={name: torch.ones(1)}))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["", " ", "module.a", "雨", "a/../b", '"', "alias:a", "[red]", "\u202e"])
def test_odd_names_are_kept(name: str, tmp_path: Path) -> None:
    found = round_trip(tmp_path, {name: torch.ones(2), name + "~": torch.zeros(3)})
    assert set(found) == {name, name + "~"}


def test_an_empty_state_dict_is_saved_and_loaded(tmp_path: Path) -> None:
    assert round_trip(tmp_path, {}) == {}


def test_arguments_are_never_changed(tmp_path: Path) -> None:
    network = conv_vae()
    analysis = {"mean": np.arange(4.0), "n_active_components": 3}
    vocoder = vocoder_state()
    metadata = ModelMetadata(name="Rain", tags=["a"], final_val_loss=math.inf, extra={"x": {"y": [1]}})
    config = {"batch": (1, 2), "nested": {"a": [1.5]}}
    spectrogram = dict(SPECTROGRAM)
    before = copy.deepcopy((analysis["mean"].tolist(), metadata, config, spectrogram, vocoder["config"]))
    state = {name: raw(tensor) for name, tensor in network.state_dict().items()}
    network.train()
    save_model(network, spectrogram, config, metadata, tmp_path, analysis, vocoder)
    assert (analysis["mean"].tolist(), metadata, config, spectrogram, vocoder["config"]) == before
    assert set(vocoder) == {"type", "state_dict", "config", "training_metadata"}
    assert {name: raw(tensor) for name, tensor in network.state_dict().items()} == state
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert isinstance(config["batch"], tuple)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    forward = conv_vae().state_dict()
    backward = OrderedDict(reversed([(k, v.clone()) for k, v in forward.items()]))
    options: dict[str, Any] = {"analysis": {"a": np.arange(3)}, "vocoder_state": vocoder_state()}
    a, b = save(tmp_path, forward, **options), save(tmp_path, backward, **options)
    assert (a.name, b.name) == ("model.distillgan", "model_1.distillgan")
    assert a.read_bytes() == b.read_bytes()


def test_a_module_is_saved_as_its_state_dict(tmp_path: Path) -> None:
    network = conv_vae()
    assert save(tmp_path, network).read_bytes() == save(tmp_path, network.state_dict()).read_bytes()


def test_what_is_known_of_a_model_is_filled_in_in_the_file_only(tmp_path: Path) -> None:
    metadata = ModelMetadata(name="Rain on tin")
    path = save_model(small_state(), None, None, metadata, tmp_path)
    found = read_manifest(path).metadata
    assert path.name == "rain_on_tin.distillgan"
    assert len(found.model_id) == 36
    assert found.save_date.endswith("+00:00")
    assert metadata == ModelMetadata(name="Rain on tin")
    manifest = json.loads(path.read_bytes()[43:].split(b"PK\3\4")[0])
    assert "spectrogram_config" not in manifest
    assert "vocoder" not in manifest
    assert "latent_analysis" not in manifest
    assert "training_epochs" not in manifest["metadata"]


def test_architecture_and_latent_size_come_from_the_weights(tmp_path: Path) -> None:
    manifest = read_manifest(save(tmp_path, conv_vae(latent=5)))
    assert (manifest.vae.architecture, manifest.vae.latent_dim) == ("conv_vae", 5)
    other = read_manifest(save(tmp_path, small_state()))
    assert (other.vae.architecture, other.vae.latent_dim) == ("unknown", None)
    assert (other.vae.tensors, other.vae.parameters, other.vae.data_bytes) == (2, 19, 76)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_loss_that_is_no_number_is_null_and_warned_of(
    loss: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vocoder = vocoder_state(training_metadata={"epochs": 3, "final_loss": loss})
    with caplog.at_level(logging.WARNING):
        path = save(tmp_path, metadata=fixed_metadata(final_val_loss=loss), vocoder_state=vocoder)
    manifest = read_manifest(path)
    assert manifest.metadata.final_val_loss is None
    assert manifest.vocoder is not None
    assert manifest.vocoder.training_metadata == {"epochs": 3, "final_loss": None}
    assert len(caplog.records) == 1
    assert "final_val_loss" in caplog.text
    assert "final_loss" in caplog.text


def test_weights_that_are_no_numbers_are_kept_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = small_state() | {"bad": torch.tensor([1.0, math.nan]), "half": torch.tensor(math.inf).bfloat16()}
    with caplog.at_level(logging.WARNING):
        found = round_trip(tmp_path, state)
    assert same_bits(found["bad"], state["bad"])
    assert "bad" in caplog.text
    assert "half" in caplog.text
    assert "conv" not in caplog.text


def test_large_finite_weights_are_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {
        "a": torch.full((9,), 3e38),
        "b": torch.full((9,), 6e4, dtype=torch.float16),
        "c": torch.empty(0),
    }
    state["d"] = torch.full((9,), 448.0).to(torch.float8_e4m3fn)
    with caplog.at_level(logging.WARNING):
        save(tmp_path, state)
    assert caplog.records == []


def test_a_vocoder_that_does_not_match_is_stored_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        path = save(tmp_path, vocoder_state=vocoder_state(state_dict=hifigan_state(80)))
    assert verify(path) == []
    assert "80" in caplog.text
    assert "4" in caplog.text


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"type": "x"},
        {"state_dict": {}},
        {"type": "x", "state_dict": {}, "more": 1},
        [],
        {"type": "x", "state_dict": 3},
    ],
    ids=str,
)
def test_a_vocoder_state_of_another_shape_is_refused(state: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        save(tmp_path, vocoder_state=state)
    assert names_in(tmp_path) == []


def test_a_state_dict_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DistillganError):
        save_model([torch.ones(3)], None, None, ModelMetadata(), tmp_path)  # type: ignore[arg-type]


def test_a_vocoder_comes_back_as_it_was_given(tmp_path: Path) -> None:
    given = vocoder_state()
    found = load_model(save(tmp_path, vocoder_state=given)).vocoder_state
    assert found is not None
    assert {k: found[k] for k in ("type", "config", "training_metadata")} == {
        k: given[k] for k in ("type", "config", "training_metadata")
    }
    assert all(same_bits(found["state_dict"][k], v) for k, v in given["state_dict"].items())
    again = save(tmp_path, vocoder_state=found)
    assert again.read_bytes() == (tmp_path / "model.distillgan").read_bytes()


@dataclasses.dataclass
class Analysis:
    components: np.ndarray
    n_active_components: int


class Plain:
    def __init__(self) -> None:
        self.components = np.arange(6, dtype=np.float32).reshape(2, 3)
        self.n_active_components = 2
        self._cache = object()


@pytest.mark.parametrize(
    "analysis",
    [Plain(), Analysis(Plain().components, 2), {"components": Plain().components, "n_active_components": 2}],
    ids=["object", "dataclass", "dict"],
)
def test_an_analysis_may_be_a_dict_or_an_object(analysis: Any, tmp_path: Path) -> None:
    loaded = load_model(save(tmp_path, analysis=analysis))
    assert loaded.analysis is not None
    assert loaded.analysis["components"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert set(loaded.analysis) == {"components", "n_active_components"}
    assert (loaded.metadata.has_analysis, loaded.metadata.n_active_components) == (True, 2)


def test_claims_of_an_analysis_follow_the_analysis(tmp_path: Path) -> None:
    found = read_manifest(save(tmp_path, metadata=fixed_metadata(has_analysis=True, n_active_components=9)))
    assert (found.metadata.has_analysis, found.metadata.n_active_components) == (False, 0)


@pytest.mark.parametrize(
    "changes",
    [{"name": "a\x1b[31mb"}, {"name": "a\nb"}, {"description": "a\x00"}, {"tags": ["a\x7f"]}, {"tags": "abc"},
     {"model_id": "\x9b"}, {"dataset_name": "a\rb"}, {"name": "\ud800"}, {"training_epochs": -1},
     {"dataset_total_duration_s": math.nan}, {"dataset_file_count": 2.5}, {"extra": {"x": {1: 2}}},
     {"extra": {"name": "x"}}, {"tags": None}],
    ids=str,
)  # fmt: skip
def test_metadata_that_no_reader_would_accept_is_refused_before_anything_is_written(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DistillganError):
        save(tmp_path, metadata=dataclasses.replace(fixed_metadata(), **changes))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["\x1b[31m", "a\nb", "\ud800"])
def test_a_vocoder_type_that_no_reader_would_accept_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DistillganError):
        save(tmp_path, vocoder_state=vocoder_state(type=kind))
    assert names_in(tmp_path) == []


def test_a_configuration_larger_than_a_manifest_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for config in ({"text": "a" * (1 << 20)}, {"list": list(range(300_000))}, {"escaped": "\x01" * 300_000}):
        with pytest.raises(DistillganError):
            save(tmp_path, training_config=config)
    assert names_in(tmp_path) == []


def test_a_name_too_long_for_a_header_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, FormatError)):
        save(tmp_path, {"x" * (9 << 20): torch.ones(1)})
    assert names_in(tmp_path) == []


def test_the_folder_is_made_and_may_be_given_as_text(tmp_path: Path) -> None:
    assert save(tmp_path / "a" / "b").parent == tmp_path / "a" / "b"
    assert isinstance(save_model(small_state(), None, None, ModelMetadata(), str(tmp_path)), Path)


def test_saving_into_a_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError):
        save(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"x"


PEAK = """
import resource, sys
import torch
from distillgan import ModelMetadata
from distillgan.torch import save_model, save_model_from_checkpoint
MB = 1024 * 1024
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
save_model({"w": torch.ones(1000)}, None, None, ModelMetadata(), sys.argv[1])
state = {f"w{i}": torch.ones(4096, 1024).t() for i in range(14)}
before = peak()
save_model(state, None, None, ModelMetadata(), sys.argv[1])
print((peak() - before) / MB)
"""


def test_saving_takes_no_more_memory_than_the_largest_tensor_and_64_mb(tmp_path: Path) -> None:
    result = python(PEAK, tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) <= 16 + 64


EIGHT = """
import sys, time
import torch
from distillgan import ModelMetadata
from distillgan.torch import save_model
state = {"w": torch.full((1000,), float(sys.argv[3]))}
while time.time() < float(sys.argv[2]):
    pass
save_model(state, None, None, ModelMetadata(name="Rain"), sys.argv[1])
"""


def test_two_processes_that_save_one_name_make_two_models(tmp_path: Path) -> None:
    import subprocess
    import sys
    import time

    from helpers import environment

    command = [sys.executable, "-c", EIGHT, str(tmp_path), str(time.time() + 4)]
    running = [subprocess.Popen([*command, str(n)], env=environment()) for n in range(2)]
    assert [process.wait(50) for process in running] == [0, 0]
    assert names_in(tmp_path) == ["rain.distillgan", "rain_1.distillgan"]
    assert {float(load_model(p, verify=True).state_dict["w"][0]) for p in tmp_path.iterdir()} == {0.0, 1.0}


def test_the_sentence_for_old_files_is_the_one_of_the_design() -> None:
    from distillgan.errors import LEGACY_FILE

    assert LEGACY_FILE == V1_FILE


def test_numbers_as_a_trainer_counts_them_are_metadata(tmp_path: Path) -> None:
    metadata = ModelMetadata(training_epochs=np.int64(7), final_val_loss=torch.tensor(3.0))  # type: ignore[arg-type]
    path = save_model({"w": torch.ones(2)}, None, None, metadata, tmp_path)
    found = read_manifest(path).metadata
    assert (found.training_epochs, found.final_val_loss) == (7, 3.0)


@pytest.mark.parametrize("metadata", [None, {"name": "Rain"}])
def test_metadata_of_another_kind_is_refused_with_the_cure(metadata: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give a ModelMetadata"):
        save_model({"w": torch.ones(2)}, None, None, metadata, tmp_path)  # type: ignore[arg-type]
