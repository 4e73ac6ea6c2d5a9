"""ConvVAE: known by names and shapes, and what the app does with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_helpers import conv_vae

from distillgan.torch import ConvVAE
from distillgan.torch.networks import grid_of, identify


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("latent", [1, 8, 64])
@pytest.mark.parametrize("grid", [(8, 6), (1, 8), (5, 6)])
def test_the_network_is_known_by_its_own_shapes(latent: int, grid: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = ConvVAE(latent, grid)
    assert identify(shapes(network)) == ("conv_vae", latent)


SPOILED = {
    "one name less": lambda s: s.pop("decoder.deconvs.12.bias"),
    "one name more": lambda s: s.update(extra=(1,)),
    "another shape": lambda s: s.update({"encoder.convs.4.weight": (64, 32, 5, 5)}),
    "another latent size": lambda s: s.update({"encoder.fc_logvar.bias": (4,)}),
    "no latent": lambda s: s.pop("encoder.fc_mu.weight"),
    "scalar latent": lambda s: s.update({"encoder.fc_mu.weight": ()}),
    "long latent": lambda s: s.update({"encoder.fc_mu.weight": (3, 2048, 1)}),
    "odd flat": lambda s: s.update({"encoder.fc_mu.weight": (3, 2049)}),
}


@pytest.mark.parametrize("name", SPOILED)
def test_anything_else_is_unknown(name: str) -> None:
    found = shapes(conv_vae())
    SPOILED[name](found)
    assert identify(found) == ("unknown", None)


def test_no_shapes_at_all_are_unknown() -> None:
    assert identify({}) == ("unknown", None)


def test_the_default_network_has_the_size_of_the_real_one() -> None:
    with torch.device("meta"):
        network = ConvVAE(8)
    assert len(network.state_dict()) == 57
    assert sum(t.numel() for t in network.state_dict().values()) == 1_085_464


def test_decoding_crops_to_the_shape_that_is_asked_for() -> None:
    network = conv_vae()
    z = torch.randn(2, 3)
    with torch.no_grad():
        whole = network.decode(z, (16, 128))
        assert network.decode(z).shape == (2, 1, 4, 126)
        assert torch.equal(network.decode(z, target_shape=(3, 100)), whole[..., :3, :100])


def test_a_sample_is_a_mel_that_is_not_negative() -> None:
    with torch.no_grad():
        mel = conv_vae().sample(5)
    assert mel.shape == (5, 1, 4, 126)
    assert (mel >= 0).all()


def test_the_log_variance_is_clamped() -> None:
    network = conv_vae()
    with torch.no_grad():
        network.encoder.fc_logvar.bias.fill_(1000)
        assert network.encode(torch.zeros(1, 1, 4, 126))[1].max() == 20
        network.encoder.fc_logvar.bias.fill_(-1000)
        assert network.encode(torch.zeros(1, 1, 4, 126))[1].min() == -20


def test_a_reconstruction_has_the_shape_of_its_mel_and_the_mean_in_eval_mode() -> None:
    network = conv_vae()
    mel = torch.rand(2, 1, 4, 126)
    with torch.no_grad():
        output, mean, logvar = network(mel)
        assert output.shape == mel.shape
        assert torch.equal(output, network.decode(mean))
        assert network.reparameterize(mean, logvar) is mean
        network.train()
        assert not torch.equal(network.reparameterize(mean, logvar), mean)


@pytest.mark.parametrize(
    ("config", "flat", "expected"),
    [
        ({"sample_rate": 48000, "hop_length": 512, "n_mels": 128}, 256 * 48, ((8, 6), (128, 94))),
        ({"sample_rate": 8000, "hop_length": 64, "n_mels": 4}, 256 * 8, ((1, 8), (4, 126))),
        ({"sample_rate": 48000, "hop_length": 512, "n_mels": 80}, 256 * 48, ((1, 48), None)),
        ({}, 256 * 6, ((1, 6), None)),
        (None, 256, ((1, 1), None)),
        ({"sample_rate": True, "hop_length": 1.0, "n_mels": None}, 256, ((1, 1), None)),
        ({"sample_rate": -5, "hop_length": 0, "n_mels": 2}, 256, ((1, 1), None)),
    ],
)
def test_the_grid_follows_the_spectrogram_where_that_explains_the_weights(
    config: Any, flat: int, expected: Any
) -> None:
    assert grid_of(config, flat) == expected
