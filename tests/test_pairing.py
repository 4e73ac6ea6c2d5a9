"""Does this vocoder fit this model? From configurations and headers alone."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from helpers import GENERATOR_CONFIG
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgan import TensorSpec
from distillgan.pairing import MATCH, check_pairing

SPECTROGRAM = {
    "sample_rate": 48000, "n_fft": 2048, "hop_length": 512, "n_mels": 128, "f_min": 0.0, "f_max": None,
    "power": 2.0,
}  # fmt: skip


def conv_pre(mels: int = 128, name: str = "conv_pre.weight_v") -> list[TensorSpec]:
    return [TensorSpec(name, "F32", (128, mels, 7), 0, 0, "")]


def config(**changes: Any) -> dict[str, Any]:
    return json.loads(GENERATOR_CONFIG.read_text()) | changes


def test_the_real_pair_matches_and_says_no_more_than_that() -> None:
    pairing = check_pairing(SPECTROGRAM, config(), conv_pre())
    assert pairing.mismatches == ()
    assert pairing.verdict == MATCH == "shapes and rates match"


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"upsample_rates": [8, 8, 2, 2]}, ("256", "512")),
        ({"hop_size": 256, "upsample_rates": [8, 8, 4]}, ("256", "512")),
        ({"num_mels": 80}, ("80", "128")),
        ({"sampling_rate": 44100}, ("44100", "48000")),
        ({"n_fft": 1024}, ("1024", "2048")),
        ({"fmin": 20}, ("20", "0")),
        ({"fmax": 8000}, ("8000", "24000")),
    ],
)
def test_each_rule_names_both_numbers_when_it_does_not_hold(
    changes: dict[str, Any], numbers: tuple[str, str]
) -> None:
    pairing = check_pairing(SPECTROGRAM, config(**changes), conv_pre())
    assert pairing.mismatches
    assert all(number in pairing.verdict for number in numbers)


def test_every_mismatch_is_given_at_once() -> None:
    pairing = check_pairing(SPECTROGRAM, config(sampling_rate=44100, n_fft=1024), conv_pre(80))
    assert len(pairing.mismatches) >= 4


@pytest.mark.parametrize(
    "name",
    ["conv_pre.weight", "conv_pre.weight_v", "conv_pre.parametrizations.weight.original1",
     "module.conv_pre.weight_v"],
)  # fmt: skip
def test_input_channels_are_found_under_each_spelling(name: str) -> None:
    assert check_pairing(SPECTROGRAM, None, conv_pre(80, name)).mismatches


def test_the_gain_of_a_normed_weight_is_not_taken_for_its_channels() -> None:
    gain = [TensorSpec("conv_pre.weight_g", "F32", (128, 1, 1), 0, 0, "")]
    assert not check_pairing(SPECTROGRAM, None, gain).mismatches


def test_a_null_highest_frequency_is_half_the_sample_rate() -> None:
    assert not check_pairing(SPECTROGRAM, config(fmax=24000), conv_pre()).mismatches
    assert not check_pairing(SPECTROGRAM | {"f_max": 24000.0}, config(fmax=None), conv_pre()).mismatches
    assert check_pairing(SPECTROGRAM | {"f_max": 20000.0}, config(fmax=None), conv_pre()).mismatches


def test_what_one_side_does_not_know_is_unknown_and_no_mismatch() -> None:
    pairing = check_pairing(None, None, [])
    assert (pairing.mismatches, pairing.matches) == ((), ())
    assert len(pairing.unknown) == 9
    assert "match" not in pairing.verdict.replace("does not match", "")


def test_distills_own_spellings_are_known_in_a_vocoder_too() -> None:
    theirs = {"sample_rate": 44100, "hop_length": 512, "n_mels": 128, "f_min": 0.0}
    assert check_pairing(SPECTROGRAM, theirs, []).mismatches == (
        "its sample_rate is 44100, the model's sample_rate is 48000",
    )


odd = st.one_of(
    st.none(), st.booleans(), st.text(max_size=3), st.integers(-(2**63), 2**63), st.just(math.nan),
    st.floats(), st.lists(st.integers(-(2**63), 2**63), max_size=40), st.just({}), st.just([2**63] * 30),
)  # fmt: skip
keys = st.sampled_from(
    ["sampling_rate", "sample_rate", "hop_size", "hop_length", "num_mels", "n_fft", "fmin", "fmax",
     "upsample_rates", "n_mels", "f_min", "f_max"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(keys, odd, max_size=8), st.dictionaries(keys, odd, max_size=8))
def test_any_configuration_gets_a_verdict(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    pairing = check_pairing(ours, theirs, conv_pre())
    assert pairing.verdict


def test_an_astronomic_upsampling_is_a_mismatch_and_no_crash() -> None:
    assert check_pairing(SPECTROGRAM, config(upsample_rates=[2**63] * 30), conv_pre()).mismatches
