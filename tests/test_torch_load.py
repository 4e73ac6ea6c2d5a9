"""Loading: mapped and lazy, and the same bits as were saved."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from helpers import FIXTURES, flip, python
from torch_helpers import conv_vae, fixed_metadata, raw, same_bits, save, small_state, vocoder_state

from distillgan import (
    Container,
    DistillganError,
    FormatError,
    IntegrityError,
    ModelNotFoundError,
    TensorSpec,
    _transport,
    verify,
)
from distillgan.torch import ConvVAE, LoadedModel, _cuda, _load, _tensors, load_model, register_architecture
from distillgan.torch._cuda import WINDOW, Lane, plan_windows

WAYS = ["mapped", "read", "zst"]


def open_by(way: str, path: Path, **options: Any) -> LoadedModel:
    if way == "zst":
        frame = path.with_name(path.name + ".zst")
        frame.write_bytes(_transport.compress(path.read_bytes()))
        path = frame
    return load_model(path, mmap=way == "mapped", **options)


@pytest.fixture
def architectures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_load, "_architectures", dict(_load._architectures))
    yield


@pytest.mark.parametrize("way", WAYS)
def test_every_tensor_comes_back_with_its_bits(way: str, tmp_path: Path) -> None:
    network = conv_vae()
    loaded = open_by(way, save(tmp_path, network, vocoder_state=vocoder_state()), verify=True)
    assert set(loaded.state_dict) == set(network.state_dict())
    assert all(same_bits(loaded.state_dict[n], t) for n, t in network.state_dict().items())
    assert loaded.vocoder_state is not None
    for name, tensor in vocoder_state()["state_dict"].items():
        assert same_bits(loaded.vocoder_state["state_dict"][name], tensor)


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_aligned_wherever_the_layout_allows(way: str, tmp_path: Path) -> None:
    state = conv_vae().state_dict() | {"n": torch.tensor(7), "b": torch.ones(3, dtype=torch.bool)}
    loaded = open_by(way, save(tmp_path, state))
    for name, tensor in loaded.state_dict.items():
        spec = loaded.state_dict.specs[name]
        wanted = 64 if spec.nbytes % 64 == 0 else tensor.element_size()
        assert tensor.data_ptr() % wanted == 0, name
        assert tensor.is_contiguous()


def test_a_tensor_asked_for_twice_is_the_same_tensor(tmp_path: Path) -> None:
    state = small_state()
    state["z.tied"] = state["conv.weight"]
    found = load_model(save(tmp_path, state)).state_dict
    assert found["conv.bias"] is found["conv.bias"]
    assert found["z.tied"].data_ptr() == found["conv.weight"].data_ptr()
    found["z.tied"][0, 0] = 42
    assert found["conv.weight"][0, 0] == 42


def test_a_mapping_knows_its_names_and_shapes_and_refuses_others(tmp_path: Path) -> None:
    found = load_model(save(tmp_path, small_state())).state_dict
    assert len(found) == 2
    assert "conv.bias" in found
    assert "other" not in found
    assert found.get("other") is None
    assert found.specs["conv.weight"].shape == (4, 4)
    assert found._made == {}
    with pytest.raises(KeyError):
        found["other"]


LAZY = """
import resource, sys, torch
from distillgan.torch import load_model
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
load_model(sys.argv[2]).state_dict["conv.bias"].sum()
before = resident()
loaded = load_model(sys.argv[1])
state = loaded.state_dict
tensors = {name: state[name] for name in state}
opened = resident() - before
tensors["w7"].sum()
print(opened, resident() - before)
"""


def test_nothing_is_read_before_it_is_touched(tmp_path: Path) -> None:
    path = save(tmp_path, {f"w{i}": torch.ones(2**20) for i in range(16)}, name="large")
    small = save(tmp_path, small_state(), name="small")
    result = python(LAZY, path, small)
    opened, touched = map(int, result.stdout.split())
    assert opened < 2**21, result.stderr
    # A page fault may bring in the whole folio around it: up to 2 MiB more at either end of the 4 MiB.
    assert touched - opened < 2**22 + 2 * 2**21 + 2**21


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whole", [True, False])
def test_writing_to_one_tensor_is_no_change_of_another_to_autograd(
    way: str, whole: bool, tmp_path: Path
) -> None:
    found = open_by(way, save(tmp_path, small_state())).state_dict
    tensors = dict(found) if whole else {name: found[name] for name in ("conv.bias", "conv.weight")}
    weight = tensors["conv.weight"].requires_grad_()
    loss = (weight * weight).sum()
    tensors["conv.bias"].add_(1)
    loss.backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, 2 * weight.detach())


@pytest.mark.parametrize("way", WAYS)
def test_writing_to_a_tensor_never_changes_the_file(way: str, tmp_path: Path) -> None:
    path = save(tmp_path, small_state())
    before = path.read_bytes()
    found = open_by(way, path).state_dict
    for name in found:
        found[name].zero_()
    gc.collect()
    assert path.read_bytes() == before
    assert load_model(path, verify=True).state_dict["conv.bias"].tolist() == [1.0, -2.0, 0.5]


@pytest.mark.parametrize("way", ["mapped", "read"])
def test_a_file_may_be_replaced_or_deleted_while_it_is_in_use(way: str, tmp_path: Path) -> None:
    path = save(tmp_path, {"w": torch.arange(100_000.0)}, vocoder_state=vocoder_state())
    first, second = open_by(way, path), open_by(way, path)
    other = save(tmp_path, {"w": torch.zeros(100_000)}, name="other")
    os.replace(other, path)
    assert first.state_dict["w"][99_999] == 99_999
    path.unlink()
    assert second.state_dict["w"][99_999] == 99_999
    assert second.vocoder_state is not None
    assert second.vocoder_state["state_dict"]["conv_pre.weight_v"].sum() == 8 * 4 * 7


@pytest.mark.parametrize("way", ["mapped", "read"])
def test_a_tensor_outlives_its_model(way: str, tmp_path: Path) -> None:
    tensor = open_by(way, save(tmp_path, {"w": torch.arange(100_000.0)})).state_dict["w"]
    gc.collect()
    assert tensor.sum() == torch.arange(100_000.0).sum()


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    path = save(tmp_path, small_state())
    before = len(os.listdir("/proc/self/fd"))
    models = [load_model(path) for _ in range(10)]
    assert [m.state_dict["conv.bias"].sum() for m in models]
    gc.collect()
    del models
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("mmap", [True, False])
def test_a_truncated_file_is_an_error_and_not_a_crash(mmap: bool, tmp_path: Path) -> None:
    path = save(tmp_path, {"w": torch.ones(100_000)})
    data = path.read_bytes()
    for size in (0, 10, 100, 5000, 100_000, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(FormatError) as caught:
            load_model(path, mmap=mmap)
        assert caught.value.code == "zip.truncated"
        assert caught.value.path == str(path)


@pytest.mark.parametrize("way", WAYS)
def test_verifying_names_the_component_and_the_tensor(way: str, tmp_path: Path) -> None:
    path = save(tmp_path, small_state(), vocoder_state=vocoder_state())
    with Container.open(path) as container:
        flip(path, container.data_offset("vae") + container.tensors("vae")["conv.bias"].begin)
        flip(path, container.data_offset("vocoder") + container.tensors("vocoder")["ups.0.weight_v"].begin)
    loaded = open_by(way, path, verify=True)
    assert loaded.state_dict["conv.weight"].shape == (4, 4)
    with pytest.raises(IntegrityError) as caught:
        loaded.state_dict["conv.bias"]
    assert (caught.value.code, caught.value.component, caught.value.tensor) == (
        "digest.tensor", "vae", "conv.bias",
    )  # fmt: skip
    with pytest.raises(IntegrityError):  # asked again, it is still wrong
        loaded.state_dict["conv.bias"]
    assert loaded.vocoder_state is not None
    with pytest.raises(IntegrityError) as caught:
        dict(loaded.vocoder_state["state_dict"])
    assert (caught.value.component, caught.value.tensor) == ("vocoder", "ups.0.weight_v")
    assert open_by(way, path).state_dict["conv.bias"].shape == (3,)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_vocoder_header_raises_at_first_use_while_the_vae_works(way: str, tmp_path: Path) -> None:
    path = save(tmp_path, small_state(), vocoder_state=vocoder_state())
    with Container.open(path) as container:
        flip(path, container.entry("vocoder.safetensors").offset + 100)
    loaded = open_by(way, path)
    assert loaded.vocoder_state is not None
    assert loaded.vocoder_state["type"] == "hifigan_v2"
    assert same_bits(loaded.state_dict["conv.bias"], small_state()["conv.bias"])
    for use in (dict, len, lambda s: s["conv_pre.weight_v"], lambda s: s.specs):
        with pytest.raises(IntegrityError) as caught:
            use(loaded.vocoder_state["state_dict"])
        assert (caught.value.code, caught.value.component) == ("digest.header", "vocoder")


def test_a_model_without_a_vocoder_says_none(tmp_path: Path) -> None:
    loaded = load_model(save(tmp_path))
    assert loaded.vocoder_state is None
    assert loaded.analysis is None
    assert loaded.spectrogram is None


def bad_vectors(*doors: str) -> list[Any]:
    found = [json.loads(p.read_text("ascii")) for p in sorted((FIXTURES / "invalid").glob("*.json"))]
    return [pytest.param(v, id=v["file"]) for v in found if v["door"] in doors]


def touch_all(loaded: LoadedModel) -> None:
    dict(loaded.state_dict)
    if loaded.vocoder_state is not None:
        dict(loaded.vocoder_state["state_dict"])


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("vector", bad_vectors("manifest", "open"))
def test_an_invalid_vector_is_refused_when_loaded(vector: dict[str, str], mmap: bool) -> None:
    with pytest.raises(FormatError) as caught:
        touch_all(load_model(FIXTURES / "invalid" / vector["file"], mmap=mmap))
    assert caught.value.code == vector["code"]
    assert caught.value.path is not None


@pytest.mark.parametrize("vector", bad_vectors("verify"))
def test_an_invalid_vector_is_refused_when_verified(vector: dict[str, str]) -> None:
    with pytest.raises(FormatError) as caught:
        touch_all(load_model(FIXTURES / "invalid" / vector["file"], verify=True))
    assert caught.value.code in [p.code for p in verify(FIXTURES / "invalid" / vector["file"])]


@pytest.mark.parametrize("path", sorted((FIXTURES / "valid").glob("*.distillgan*")), ids=lambda p: p.name)
def test_a_valid_vector_loads(path: Path) -> None:
    loaded = load_model(path, verify=True)
    touch_all(loaded)
    assert loaded.metadata.name is not None
    assert loaded.analysis is None or isinstance(loaded.analysis, dict)
    repr(loaded)


@pytest.mark.parametrize("name", ["none.distillgan", "none.distillgan.zst"])
def test_a_missing_file_is_not_found(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_model(tmp_path / name)


def test_what_is_no_file_is_a_format_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(FormatError) as caught:
            load_model(path)
        assert caught.value.code == "file.type"


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta", "", "cuda:-1"])
def test_a_device_that_is_not_there_is_an_error_that_says_so(device: str, tmp_path: Path) -> None:
    with pytest.raises(DistillganError):
        load_model(save(tmp_path), device)


def test_a_missing_gpu_is_an_error_that_says_so(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(DistillganError, match="cuda"):
            load_model(save(tmp_path), "cuda")


def test_the_device_may_be_given_as_torch_has_it(tmp_path: Path) -> None:
    assert load_model(save(tmp_path), torch.device("cpu")).device == torch.device("cpu")


def reference_decode(state: Any, z: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """ConvVAE's decoder, written out by hand."""
    functional = torch.nn.functional
    x = functional.linear(z, state["decoder.fc.weight"], state["decoder.fc.bias"]).view(-1, 256, *grid)
    for i in (0, 4, 8, 12):
        weight, bias = state[f"decoder.deconvs.{i}.weight"], state[f"decoder.deconvs.{i}.bias"]
        x = functional.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)
        if i < 12:
            norm = [
                state[f"decoder.deconvs.{i + 1}.{k}"]
                for k in ("running_mean", "running_var", "weight", "bias")
            ]
            x = torch.relu(functional.batch_norm(x, *norm))
    return functional.softplus(x)


def test_the_network_decodes_bit_for_bit_as_the_real_weights_do(real_pair: Path) -> None:
    loaded = load_model(real_pair)
    network = loaded.model
    assert isinstance(network, ConvVAE)
    assert not network.training
    assert network.latent_dim == 8
    torch.manual_seed(0)
    z = torch.randn(2, 8)
    state = {name: tensor.clone() for name, tensor in loaded.state_dict.items()}
    with torch.no_grad():
        expected = reference_decode(state, z, (8, 6))
        assert torch.equal(network.decode(z, target_shape=(128, 94)), expected[..., :128, :94])
        assert network.decode(z).shape == (2, 1, 128, 94)


@pytest.mark.parametrize("way", WAYS)
def test_the_networks_weights_are_those_of_the_state_dict_without_a_copy(way: str, tmp_path: Path) -> None:
    loaded = open_by(way, save(tmp_path, conv_vae()))
    assert loaded.model is loaded.model
    assert loaded.model is not None
    weight = loaded.model.get_parameter("decoder.fc.weight")
    assert weight.data_ptr() == loaded.state_dict["decoder.fc.weight"].data_ptr()
    assert weight.requires_grad
    assert not any(tensor.is_meta for tensor in loaded.model.state_dict().values())


def test_a_state_dict_goes_into_a_network_by_assignment(tmp_path: Path) -> None:
    network = conv_vae()
    loaded = load_model(save(tmp_path, network))
    other = conv_vae(seed=1)
    assert not other.load_state_dict(loaded.state_dict, assign=True).missing_keys
    z = torch.randn(1, 3)
    with torch.no_grad():
        assert torch.equal(other.decode(z), network.decode(z))
    assert other.decoder.fc.weight.data_ptr() == loaded.state_dict["decoder.fc.weight"].data_ptr()


def test_a_loaded_network_trains(tmp_path: Path) -> None:
    loaded = load_model(save(tmp_path, conv_vae()))
    network = loaded.model
    assert network is not None
    network.train()
    output, _, _ = network(torch.rand(2, 1, 4, 126))
    output.sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad


def test_an_unknown_architecture_has_no_network_and_all_the_rest(tmp_path: Path) -> None:
    loaded = load_model(save(tmp_path, small_state()))
    assert loaded.model is None
    assert set(loaded.state_dict) == set(small_state())
    assert loaded.metadata.name == "model"


class Other(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Linear(4, 4)


def test_an_application_brings_its_own_network(architectures: None, tmp_path: Path) -> None:
    seen: list[dict[str, TensorSpec]] = []

    def build(manifest: Any, specs: dict[str, TensorSpec]) -> torch.nn.Module:
        seen.append(specs)
        return torch.nn.ModuleDict({"conv": torch.nn.Linear(4, 4)})

    register_architecture("unknown", build, spectrogram=lambda config: config["n_mels"] * 2)
    state = {"conv.weight": torch.rand(4, 4), "conv.bias": torch.rand(4)}
    loaded = load_model(save(tmp_path, state))
    assert loaded.spectrogram == 8
    assert loaded.model is not None
    assert same_bits(loaded.model.get_parameter("conv.bias").data, state["conv.bias"])
    assert set(seen[0]) == set(state)


def test_the_built_in_network_may_be_replaced(architectures: None, tmp_path: Path) -> None:
    class Mine(ConvVAE):
        pass

    register_architecture("conv_vae", lambda manifest, specs: Mine(3, (1, 8)))
    assert isinstance(load_model(save(tmp_path, conv_vae())).model, Mine)


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"conv.weight": torch.rand(4, 4), "conv.bias": torch.rand(4), "more": torch.rand(1)}, "more"),
        ({"conv.weight": torch.rand(4, 4)}, "conv.bias"),
        ({"conv.weight": torch.rand(5, 4), "conv.bias": torch.rand(4)}, "conv.weight"),
    ],
)
def test_keys_that_network_and_weights_do_not_share_are_named(
    state: dict[str, torch.Tensor], word: str, architectures: None, tmp_path: Path
) -> None:
    register_architecture("unknown", lambda manifest, specs: Other())
    loaded = load_model(save(tmp_path, state))
    with pytest.raises(DistillganError, match=word):
        loaded.model  # noqa: B018
    assert set(loaded.state_dict) == set(state)


@pytest.mark.parametrize(
    ("rate", "hop", "mels", "latent"), [(8000, 64, 4, 3), (22050, 256, 80, 16), (16000, 160, 33, 1)]
)
def test_other_rates_mels_and_latent_sizes_than_the_default(
    rate: int, hop: int, mels: int, latent: int, tmp_path: Path
) -> None:
    frames = rate // hop + 1
    network = ConvVAE(latent, (-(-mels // 16), -(-frames // 16))).eval()
    config = {"sample_rate": rate, "hop_length": hop, "n_mels": mels}
    loaded = load_model(save(tmp_path, network, spectrogram_config=config))
    assert loaded.manifest.vae.latent_dim == latent
    assert isinstance(loaded.model, ConvVAE)
    mel = torch.rand(2, 1, mels, frames)
    with torch.no_grad():
        mean, logvar = loaded.model.encode(mel)
        assert mean.shape == logvar.shape == (2, latent)
        assert torch.equal(mean, network.encode(mel)[0])
        assert loaded.model.decode(mean).shape == mel.shape
        assert loaded.model.sample(3).shape == (3, 1, mels, frames)


@pytest.mark.parametrize(
    "config",
    [None, {}, {"sample_rate": 1}, {"sample_rate": 0, "hop_length": 0, "n_mels": 0},
     {"sample_rate": "8000", "hop_length": 64, "n_mels": 4}],
    ids=str,
)  # fmt: skip
def test_a_network_whose_spectrogram_is_not_known_decodes_all_the_same(config: Any, tmp_path: Path) -> None:
    loaded = load_model(save(tmp_path, conv_vae(), spectrogram_config=config))
    assert loaded.model is not None
    with torch.no_grad():
        assert loaded.model.decode(torch.zeros(1, 3)).numel() == 128 * 16


def test_reprs_are_text_and_html_is_escaped(tmp_path: Path) -> None:
    loaded = load_model(
        save(tmp_path, metadata=fixed_metadata("<i>'\u202e[red]"), vocoder_state=vocoder_state())
    )
    for text in (repr(loaded), loaded._repr_html_()):
        assert "\u202e" not in text
        assert "cpu" in text
        assert "hifigan_v2" in text
        assert "[red]" in text
    assert "<i>" not in loaded._repr_html_()
    assert "&lt;i&gt;&#x27;" in loaded._repr_html_()
    assert "tensors" in repr(loaded.state_dict)


@pytest.mark.parametrize("size", [1, 7, 64, 1000, WINDOW])
def test_windows_cover_every_byte_once_in_order_and_are_not_too_large(size: int) -> None:
    sizes = [0, 64, 3, 0, 1000, 1, 5000, 8]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    specs = [
        TensorSpec(str(i), "U8", (n,), e - n, e, "") for i, (n, e) in enumerate(zip(sizes, ends, strict=True))
    ]
    kept = [spec for spec in specs if spec.name != "4"]  # a gap
    windows = plan_windows(kept, size)
    seen = {spec.name: bytearray(spec.nbytes) for spec in kept}
    for window in windows:
        assert 0 < window.end - window.begin <= size
        for piece in window.pieces:
            spec = next(s for s in kept if s.name == piece.name)
            assert window.begin + piece.source == spec.begin + piece.target
            assert piece.source + piece.length <= window.end - window.begin
            for i in range(piece.target, piece.target + piece.length):
                seen[piece.name][i] += 1
    assert all(set(counts) <= {1} for counts in seen.values())
    assert [w.begin for w in windows] == sorted(w.begin for w in windows)


def test_no_tensor_means_no_window() -> None:
    assert plan_windows([], 4096) == []


def streamed(path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> _cuda.CudaTensors:
    """The streaming of a component with host memory in the device's place."""
    monkeypatch.setattr(_cuda, "CudaLane", Lane)
    monkeypatch.setattr(_cuda, "WINDOW", 4096)
    return _cuda.CudaTensors(Container.open(path), "vae", torch.device("cpu"), options.get("verify", True))


def test_streaming_gives_each_tensor_an_allocation_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = conv_vae().state_dict() | {"empty": torch.empty(0, 2)}
    state["tied"] = state["encoder.fc_mu.weight"]
    path = save(tmp_path, state)
    found = streamed(path, monkeypatch)
    first = found["decoder.fc.bias"]
    everything = dict(found)
    assert everything["decoder.fc.bias"] is first
    assert {n: raw(t) for n, t in everything.items()} == {n: raw(t) for n, t in state.items()}
    for name, tensor in everything.items():
        assert tensor.untyped_storage().nbytes() == found.specs[name].nbytes
    assert everything["tied"].data_ptr() == everything["encoder.fc_mu.weight"].data_ptr()


def test_streaming_checks_digests_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, small_state())
    with Container.open(path) as container:
        flip(path, container.data_offset("vae") + container.tensors("vae")["conv.bias"].begin)
    with pytest.raises(IntegrityError) as caught:
        dict(streamed(path, monkeypatch))
    assert caught.value.tensor == "conv.bias"
    found = streamed(path, monkeypatch)
    with pytest.raises(IntegrityError):
        found["conv.bias"]


def test_a_wrong_crc_is_told_each_time_a_component_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = streamed(save(tmp_path, small_state()), monkeypatch)
    entry = found._container.entries[1]
    wrong = (found._container.entries[0], msgspec.structs.replace(entry, crc=entry.crc ^ 1))
    monkeypatch.setattr(found._container, "entries", wrong)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"zip\.crc"):
            dict(found)


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_that_became_shorter_ends_streaming_after_the_copies_under_way(
    verify: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = []
    monkeypatch.setattr(Lane, "finish", lambda self: finished.append(self))
    path = save(tmp_path, {f"w{i}": torch.ones(4096) for i in range(9)})
    found = streamed(path, monkeypatch, verify=verify)
    list(found)
    os.truncate(path, 100_000)
    with pytest.raises(FormatError, match=r"zip\.truncated") as caught:
        dict(found)
    assert caught.value.path == str(path)
    assert finished


def test_buffers_of_the_host_are_made_there_whatever_the_default_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, small_state())
    with torch.device("meta"):
        found = dict(streamed(path, monkeypatch))
    assert same_bits(found["conv.weight"], small_state()["conv.weight"])


@pytest.mark.parametrize("way", WAYS)
def test_what_is_first_used_under_inference_mode_can_be_trained_later(way: str, tmp_path: Path) -> None:
    network = conv_vae()
    loaded = open_by(way, save(tmp_path, network.state_dict()))
    with torch.inference_mode():
        early = loaded.state_dict["encoder.fc_mu.bias"]
        assert loaded.model is not None
        loaded.model.decode(torch.zeros(1, 3))
    late = loaded.state_dict["encoder.fc_mu.weight"]
    assert not early.is_inference()
    assert not late.is_inference()
    loaded.model.train()
    loaded.model.decode(torch.zeros(2, 3)).sum().backward()
    assert all(p.grad is not None for p in loaded.model.decoder.parameters())


def test_a_dtype_that_this_pytorch_does_not_have_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, {"w": torch.zeros(4).to(torch.float8_e5m2)})
    monkeypatch.delitem(_tensors.NAMES, "F8_E5M2")
    with pytest.raises(DistillganError, match="F8_E5M2: upgrade PyTorch"):
        load_model(path).state_dict["w"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("whole", [True, False])
def test_a_model_arrives_on_the_gpu_with_its_bits(whole: bool, real_pair: Path) -> None:
    loaded, reference = load_model(real_pair, "cuda", verify=True), load_model(real_pair)
    assert loaded.vocoder_state is not None
    assert reference.vocoder_state is not None
    for found, wanted in (
        (loaded.state_dict, reference.state_dict),
        (loaded.vocoder_state["state_dict"], reference.vocoder_state["state_dict"]),
    ):
        tensors = dict(found) if whole else {name: found[name] for name in reversed(list(wanted))}
        for name, tensor in tensors.items():
            assert tensor.device.type == "cuda"
            assert same_bits(tensor.cpu(), wanted[name])


def test_a_copy_of_a_model_loads_from_another_place(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "ü 雨").mkdir()
    moved = shutil.move(pair, tmp_path / "ü 雨" / "[a].distillgan")
    assert len(load_model(moved).state_dict) == 57
