"""Reading what people have: checkpoints of every age, safely."""

from __future__ import annotations

import enum
import json
import logging
import math
import os
import pickle
import struct
import sys
import time
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    CHECKPOINT,
    GENERATOR,
    GENERATOR_CONFIG,
    V1_FILE,
    edit_pickle,
    names_in,
    pickled_text,
    python,
)
from safetensors.torch import save_file
from torch_helpers import STATE_KEYS, conv_vae, hifigan_state, raw, same_bits, save, small_state

from distillgan import CheckpointError, LegacyFormatError, ModelMetadata, ModelNotFoundError, verify
from distillgan.torch import (
    _checkpoint,
    load_model,
    read_model,
    read_vocoder_state,
    save_model_from_checkpoint,
)
from distillgan.torch._checkpoint import read_checkpoint


def torch_file(path: Path, value: object, *, old: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not old)
    return path


def packed(path: Path, folder: Path) -> Any:
    return load_model(save_model_from_checkpoint(path, ModelMetadata(name="model"), folder), verify=True)


@pytest.fixture
def app() -> Any:
    """The application's modules, there only while a checkpoint is written."""
    names = ("distill", "distill.training", "distill.training.config")
    modules = {name: types.ModuleType(name) for name in names}

    class OverfittingPreset(str, enum.Enum):  # noqa: UP042  as the application writes it
        NONE = "none"
        STRONG = "strong"

    class Settings:
        def __init__(self) -> None:
            self.depth, self.names = 3, ["a"]

    config = modules["distill.training.config"]
    for cls in (OverfittingPreset, Settings):
        cls.__module__, cls.__qualname__ = config.__name__, cls.__name__
        setattr(config, cls.__name__, cls)
    sys.modules.update(modules)
    yield config
    for name in names:
        sys.modules.pop(name, None)


def without_app() -> None:
    for name in [n for n in sys.modules if n == "distill" or n.startswith("distill.")]:
        del sys.modules[name]


def test_the_real_checkpoint_keeps_every_tensor_and_value(tmp_path: Path) -> None:
    loaded = packed(CHECKPOINT, tmp_path)
    globals_ = [
        np.ndarray, np.dtype, np._core.multiarray._reconstruct, np._core.multiarray.scalar,
        *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
        (str, "distill.training.config.OverfittingPreset"),
    ]  # fmt: skip
    with torch.serialization.safe_globals(globals_):
        reference = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    assert set(loaded.state_dict) == set(reference["model_state_dict"])
    assert all(same_bits(loaded.state_dict[n], t) for n, t in reference["model_state_dict"].items())
    assert loaded.spectrogram_config == reference["spectrogram_config"]
    assert loaded.training_config == reference["training_config"]
    assert type(loaded.training_config["preset"]) is str
    assert loaded.metadata.training_epochs == reference["epoch"] + 1 == 7
    assert loaded.metadata.final_train_loss == reference["train_loss"]
    assert loaded.metadata.final_val_loss == reference["val_loss"]
    assert loaded.analysis is not None
    assert set(loaded.analysis) == set(reference["latent_analysis"])
    for key, value in reference["latent_analysis"].items():
        found = loaded.analysis[key]
        if isinstance(value, np.ndarray):
            assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())
        else:
            assert found == value
    assert loaded.metadata.n_active_components == 8
    assert (loaded.manifest.vae.architecture, loaded.manifest.vae.latent_dim) == ("conv_vae", 8)
    assert "distill" not in sys.modules


def test_the_real_generator_is_known_by_its_shapes() -> None:
    state = read_vocoder_state(GENERATOR, config=json.loads(GENERATOR_CONFIG.read_text()))
    reference = torch.load(GENERATOR, map_location="cpu", weights_only=True)["generator"]
    assert state["type"] == "hifigan_v2"
    assert len(state["state_dict"]) == 234
    assert all(same_bits(state["state_dict"][n], t) for n, t in reference.items())


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("key", [*STATE_KEYS, None])
def test_a_state_dict_is_found_under_each_name(key: str | None, old: bool, tmp_path: Path) -> None:
    value = small_state() if key is None else {key: small_state(), "epoch": 3}
    path = torch_file(tmp_path / "a.pt", value, old=old)
    loaded = packed(path, tmp_path)
    assert {n: raw(t) for n, t in loaded.state_dict.items()} == {n: raw(t) for n, t in small_state().items()}
    assert loaded.metadata.training_epochs == (None if key is None else 4)


def test_a_prefix_of_data_parallel_training_is_kept(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in small_state().items()}
    assert set(packed(torch_file(tmp_path / "a.pt", state), tmp_path).state_dict) == set(state)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_storages_tagged_for_a_gpu_are_read_on_the_cpu(old: bool, tmp_path: Path) -> None:
    path = torch_file(tmp_path / "g_1", {"generator": hifigan_state()}, old=old)
    edit_pickle(path, pickled_text("cpu"), pickled_text("cuda:0"))
    state = read_vocoder_state(path)["state_dict"]
    assert {n: raw(t) for n, t in state.items()} == {n: raw(t) for n, t in hifigan_state().items()}
    assert {str(t.device) for t in state.values()} == {"cpu"}


class VeryOld:
    """A tensor as the first releases pickled it."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def __reduce__(self) -> Any:
        storage = torch.storage.TypedStorage(
            wrap_storage=self.tensor.untyped_storage(), dtype=self.tensor.dtype, _internal=True
        )
        return torch._utils._rebuild_tensor, (storage, 0, tuple(self.tensor.shape), self.tensor.stride())


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_the_very_old_rebuild_function_is_read(old: bool, tmp_path: Path) -> None:
    state = {name: VeryOld(tensor) for name, tensor in small_state().items()}
    path = torch_file(tmp_path / "a.pt", {"generator": state}, old=old)
    found = read_checkpoint(path).state_dict
    assert {n: raw(t) for n, t in found.items()} == {n: raw(t) for n, t in small_state().items()}


def test_ties_of_a_checkpoint_stay_ties(tmp_path: Path) -> None:
    state = small_state()
    state["tied"] = state["conv.weight"]
    loaded = packed(torch_file(tmp_path / "a.pt", state), tmp_path)
    assert loaded.state_dict["tied"].data_ptr() == loaded.state_dict["conv.weight"].data_ptr()


@pytest.mark.parametrize(("name", "instead"), [("do_00000006", "g_00000006"), ("other.pt", "g_")])
def test_a_gan_training_file_is_refused_with_the_name_to_give(
    name: str, instead: str, tmp_path: Path
) -> None:
    value = {
        "mpd": hifigan_state(),
        "msd": hifigan_state(),
        "optim_g": {},
        "optim_d": {},
        "steps": 6,
        "epoch": 0,
    }
    path = torch_file(tmp_path / name, value)
    for read in (read_model, read_vocoder_state):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert instead in str(caught.value)


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("place", ["top", "config", "weights"])
def test_an_unknown_global_is_refused_by_name_and_nothing_of_it_runs(
    place: str, old: bool, tmp_path: Path
) -> None:
    evil = Hostile(tmp_path / "made")
    value: dict[str, Any] = {"model_state_dict": small_state(), "training_config": {}}
    target = {"top": value, "config": value["training_config"], "weights": value["model_state_dict"]}[place]
    target["x"] = evil
    path = torch_file(tmp_path / "a.pt", value, old=old)
    with pytest.raises(CheckpointError) as caught:
        read_model(path)
    assert f"{os.name}.mkdir" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert names_in(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_plain_pickle_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(Hostile(tmp_path / "made"), protocol))
    with pytest.raises(CheckpointError):
        read_model(path)
    assert names_in(tmp_path) == ["a.pt"]


def test_a_class_of_another_package_with_a_like_name_is_refused(tmp_path: Path, app: Any) -> None:
    path = torch_file(tmp_path / "a.pt", {"model": small_state(), "x": app.OverfittingPreset.STRONG})
    edit_pickle(path, b"distill.training.config", b"distillery.config")
    without_app()
    with pytest.raises(CheckpointError, match=r"distillery\.config\.OverfittingPreset"):
        read_model(path)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_classes_of_the_app_are_read_as_their_values_and_not_imported(
    old: bool, tmp_path: Path, app: Any
) -> None:
    config = {
        "preset": app.OverfittingPreset.STRONG,
        "settings": app.Settings(),
        "all": [app.OverfittingPreset.NONE],
    }
    value = {"model_state_dict": small_state(), "training_config": config}
    path = torch_file(tmp_path / "a.pt", value, old=old)
    without_app()
    loaded = packed(path, tmp_path)
    assert loaded.training_config == {
        "preset": "strong", "settings": {"depth": 3, "names": ["a"]}, "all": ["none"],
    }  # fmt: skip
    assert "distill" not in sys.modules


def test_the_names_of_numpy_1_are_read(tmp_path: Path) -> None:
    analysis = {
        "mean": np.arange(4, dtype=np.float32),
        "scalar": np.float64(1.5),
        "big": np.array([1], ">i4"),
    }
    path = torch_file(tmp_path / "a.pt", {"model_state_dict": small_state(), "latent_analysis": analysis})
    edit_pickle(path, b"numpy._core.multiarray", b"numpy.core.multiarray")
    loaded = packed(path, tmp_path)
    assert loaded.analysis is not None
    assert loaded.analysis["mean"].tobytes() == analysis["mean"].tobytes()
    assert loaded.analysis["mean"].dtype == np.float32
    assert loaded.analysis["scalar"] == 1.5
    assert loaded.analysis["big"].tolist() == [1]


@pytest.mark.parametrize(
    "value",
    [np.arange(3).astype(d) for d in ("?", *"bhilBHILefd")]
    + [np.array(1.5), np.empty((0, 3)), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(9)[::-2],
       np.array([math.nan, math.inf, -0.0])],
    ids=lambda a: f"{a.dtype}{a.shape}",
)  # fmt: skip
def test_arrays_of_an_analysis_keep_their_bits(value: np.ndarray, tmp_path: Path) -> None:
    found = load_model(save(tmp_path, analysis={"a": value, "in": [{"b": value}]})).analysis
    assert found is not None
    for array in (found["a"], found["in"][0]["b"]):
        assert (array.dtype, array.shape, array.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_tensors_of_an_analysis_become_arrays(tmp_path: Path) -> None:
    found = load_model(save(tmp_path, analysis={"a": torch.arange(3)})).analysis
    assert found is not None
    assert found["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "value",
    [np.array(["a"]), np.array([object()]), np.ones(2, complex), np.zeros(2, np.longdouble)],
    ids=lambda a: str(a.dtype),
)
def test_arrays_that_are_no_numbers_are_refused_by_their_path(value: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"latent_analysis\.a\[0\]"):
        save(tmp_path, analysis={"a": [value]})


def cyclic() -> dict[str, Any]:
    config: dict[str, Any] = {"a": {}}
    config["a"]["b"] = config
    return config


def shared() -> dict[str, Any]:
    level: Any = [1]
    for _ in range(30):
        level = [level] * 10
    return {"a": level}


def deep(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels):
        value = {"d": value}
    return value


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (cyclic(), r"training_config\.a\.b"),
        (shared(), r"training_config\.a"),
        (deep(33), r"training_config\.d"),
        ({"a": {3: 1}}, r"training_config\.a.*3"),
        ({"a": [{(1, 2): 1}]}, r"training_config\.a\[0\]"),
        ({"a": "\ud800"}, r"training_config\.a"),
        ({"\ud800": 1}, r"training_config"),
        ({"a": math.nan}, r"training_config\.a"),
        ({"a": [1.0, math.inf]}, r"training_config\.a\[1\]"),
        ({"a": 2**63 + 1}, r"training_config\.a"),
        ({"a": -(10**70)}, r"training_config\.a"),
        ({"a": b"bytes"}, r"training_config\.a"),
        ({"a": {1, 2}}, r"training_config\.a"),
        ({"a": 1j}, r"training_config\.a"),
        ({"a": torch.ones(1)}, r"training_config\.a"),
        ({"a": ["x" * 1000] * 2000}, r"training_config\.a"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_configuration_that_json_cannot_hold_is_refused_by_its_path(
    config: dict[str, Any], path: str, tmp_path: Path
) -> None:
    file = torch_file(tmp_path / "a.pt", {"model_state_dict": small_state(), "training_config": config})
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=path) as caught:
        save_model_from_checkpoint(file, ModelMetadata(), tmp_path / "out")
    assert time.monotonic() - start < 5
    assert len(str(caught.value)) < 500
    str(caught.value).encode("utf-8", "surrogatepass")
    assert names_in(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("kind", ["list", "dict"])
def test_a_configuration_of_a_hundred_thousand_levels_is_refused(
    kind: str, old: bool, tmp_path: Path
) -> None:
    value = {"model_state_dict": small_state(), "training_config": {"deep": "PLACEHOLDER"}}
    path = torch_file(tmp_path / "a.pt", value, old=old)
    nested = b"]" * 100_000 + b"a" * 99_999
    if kind == "dict":
        nested = (b"}" + pickled_text("k")) * 99_999 + b"}" + b"s" * 99_999
    edit_pickle(path, pickled_text("PLACEHOLDER"), nested)
    start = time.monotonic()
    with pytest.raises(CheckpointError):
        save_model_from_checkpoint(path, ModelMetadata(), tmp_path / "out")
    assert time.monotonic() - start < 10
    assert names_in(tmp_path) == ["a.pt"]


BOUNDED = """
import resource, sys
from distillgan import CheckpointError, ModelMetadata
from distillgan.torch import save_model_from_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    save_model_from_checkpoint(sys.argv[1], ModelMetadata(), sys.argv[2])
except CheckpointError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_an_astronomic_configuration_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "a.pt", {"model_state_dict": small_state(), "training_config": shared()})
    result = python(BOUNDED, path, tmp_path / "out")
    assert float(result.stdout) < 300, result.stderr


def test_tuples_become_lists_and_numpy_scalars_their_value(tmp_path: Path) -> None:
    class Color(enum.Enum):
        RED = ("r", 1)

    config = {"t": (1, (2,)), "i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "e": Color.RED}
    found = load_model(save(tmp_path, training_config=config)).training_config
    assert found == {"t": [1, [2]], "i": 3, "f": 0.5, "b": True, "e": ["r", 1]}
    assert type(found["b"]) is bool


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan), np.float64("inf")])
def test_losses_that_are_no_numbers_become_null_with_a_warning(
    loss: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value = {"model_state_dict": small_state(), "train_loss": 1.5, "val_loss": loss, "epoch": 0}
    with caplog.at_level(logging.WARNING):
        loaded = packed(torch_file(tmp_path / "a.pt", value), tmp_path)
    assert (loaded.metadata.final_train_loss, loaded.metadata.final_val_loss) == (1.5, None)
    assert loaded.metadata.training_epochs == 1
    assert "final_val_loss" in caplog.text
    assert "final_train_loss" not in caplog.text


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("name", ["a.pt", "a.distillgan"])
def test_a_v1_model_gets_the_sentence_from_packing_too(name: str, old: bool, tmp_path: Path) -> None:
    value = {"format": "distill_model", "version": 1, "model_state_dict": small_state()}
    path = torch_file(tmp_path / name, value, old=old)
    for read in (read_model, read_vocoder_state, lambda p: packed(p, tmp_path), load_model):
        with pytest.raises(LegacyFormatError) as caught:
            read(path)
        assert str(caught.value) == V1_FILE


def test_a_training_checkpoint_whose_config_names_a_format_is_no_old_model(tmp_path: Path) -> None:
    value = {"training_config": {"format": "distill_model"}, "model_state_dict": small_state()}
    assert packed(torch_file(tmp_path / "a.pt", value), tmp_path).training_config == {
        "format": "distill_model"
    }


@pytest.mark.parametrize(
    "value", [3, [1, 2], torch.ones(3), {}, {"a": 1}, {"model_state_dict": {}}, "text"], ids=str
)
def test_a_file_without_a_state_dict_says_what_it_holds(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_model(torch_file(tmp_path / "a.pt", value))
    assert str(tmp_path / "a.pt") in str(caught.value)


def test_a_pickled_network_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state_dict\(\)"):
        read_model(torch_file(tmp_path / "a.pt", torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_a_checkpoint_cut_anywhere_or_scrambled_is_an_error_of_ours(old: bool, tmp_path: Path) -> None:
    data = torch_file(tmp_path / "a.pt", {"model": small_state()}, old=old).read_bytes()
    path = tmp_path / "b.pt"
    for size in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            read_model(path)
    import random

    lot = random.Random(1)
    for _ in range(60):
        bad = bytearray(data)
        for _ in range(3):
            bad[lot.randrange(len(bad))] ^= 1 << lot.randrange(8)
        path.write_bytes(bad)
        try:
            read_model(path)
        except (CheckpointError, LegacyFormatError) as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("data", [b"", b"hello", bytes(100), b"\x80\x02", b"PK\3\4", b"\xff" * 9, b"{}"])
def test_a_file_of_another_kind_is_an_error_of_ours(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    for read in (read_model, read_vocoder_state):
        with pytest.raises(CheckpointError):
            read(path)


def test_a_missing_checkpoint_is_not_found(tmp_path: Path) -> None:
    for read in (read_model, read_vocoder_state):
        with pytest.raises(ModelNotFoundError):
            read(tmp_path / "none.pt")


def test_a_safetensors_file_is_read_with_its_ties(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "a.safetensors")
    loaded = packed(tmp_path / "a.safetensors", tmp_path)
    assert {n: raw(t) for n, t in loaded.state_dict.items()} == {n: raw(t) for n, t in small_state().items()}


def test_a_container_is_read_with_everything_it_holds(real_pair: Path, tmp_path: Path) -> None:
    model = read_model(real_pair)
    loaded = load_model(real_pair)
    assert model.metadata == loaded.metadata
    assert set(model.state_dict) == set(loaded.state_dict)
    path = save_model_from_checkpoint(real_pair, loaded.metadata, tmp_path)
    assert verify(path) == []
    assert path.read_bytes() == real_pair.read_bytes()


def test_what_the_caller_says_wins_over_the_checkpoint(tmp_path: Path) -> None:
    metadata = ModelMetadata(name="Mine", training_epochs=99, final_train_loss=0.5)
    path = save_model_from_checkpoint(CHECKPOINT, metadata, tmp_path)
    found = load_model(path).metadata
    assert (found.name, found.training_epochs, found.final_train_loss) == ("Mine", 99, 0.5)
    assert found.final_val_loss is not None
    assert metadata.final_val_loss is None


def test_a_network_trained_by_others_is_packed_as_unknown(tmp_path: Path) -> None:
    state = conv_vae().state_dict()
    state["extra"] = torch.ones(1)
    assert packed(torch_file(tmp_path / "a.pt", state), tmp_path).manifest.vae.architecture == "unknown"


@pytest.mark.parametrize(
    ("shape", "blocks", "kind"),
    [((512, 80, 7), True, "hifigan_v1"), ((128, 80, 7), True, "hifigan_v2"),
     ((256, 80, 7), False, "hifigan_v3"), ((64, 80, 7), True, "hifigan")],
)  # fmt: skip
def test_vocoders_are_told_apart_by_their_shapes(shape: Any, blocks: bool, kind: str, tmp_path: Path) -> None:
    block = "resblocks.0.convs1.0.weight_v" if blocks else "resblocks.0.convs.0.weight_v"
    state = {"conv_pre.weight_v": torch.ones(shape), "ups.0.weight_v": torch.ones(1), block: torch.ones(1)}
    assert read_vocoder_state(torch_file(tmp_path / "g", {"generator": state}))["type"] == kind
    other = {"some.weight": torch.ones(1)}
    assert read_vocoder_state(torch_file(tmp_path / "o", {"generator": other}))["type"] == "unknown"


def test_members_that_overlap_are_not_read_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", bytes(2**20))
    assert _checkpoint._find_damage(path) is None
    data = path.read_bytes()
    record = data[data.index(b"PK\1\2") : data.index(b"PK\5\6")]
    count = 50_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(record) * count, 2**20 + 31, 0)
    path.write_bytes(data[: data.index(b"PK\1\2")] + record * count + end)
    assert len(zipfile.ZipFile(path).infolist()) == count
    assert _checkpoint._find_damage(path) == "the ZIP directory"


def test_a_zip_whose_directory_is_broken_is_damaged_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"abc")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\1\2", b"PK\1\3"))
    assert _checkpoint._find_damage(path) == "the ZIP directory"
