"""Does this vocoder fit this model? From configurations and headers alone, best effort."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ._safetensors import TensorSpec

if TYPE_CHECKING:
    from .container import Container

MATCH = "shapes and rates match"
UNRECORDED = "mel scale, power and log are not recorded by HiFi-GAN and were not compared"

CONV_PRE = ("conv_pre.weight", "conv_pre.weight_v", "conv_pre.parametrizations.weight.original1")
_READABLE = 10**15
_MOST_RATES = 32  # a generator has four or five; the product of thousands takes seconds
_SPELLINGS = {  # ours: how vocoders' configurations spell it
    "sample_rate": ("sampling_rate", "sample_rate"),
    "hop_length": ("hop_size", "hop_length"),
    "n_mels": ("num_mels", "n_mels"),
    "n_fft": ("n_fft", "filter_length"),
    "f_min": ("fmin", "f_min"),
    "f_max": ("fmax", "f_max"),
}


class Pairing(NamedTuple):
    """The verdict: what contradicts, what agrees, and what could not be compared."""

    mismatches: tuple[str, ...]
    matches: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One sentence part: a mismatch with its reasons, a match, or nothing to compare."""
        if self.mismatches:
            return "does not match: " + "; ".join(self.mismatches)
        return MATCH if self.matches else "cannot be compared: nothing is known of both sides"


def check_pairing(
    spectrogram_config: Mapping[str, Any] | None,
    vocoder_config: Mapping[str, Any] | None,
    vocoder_tensors: Iterable[TensorSpec],
) -> Pairing:
    """Compare a model's spectrogram with a vocoder's configuration and input channels.

    A rule is checked only when both sides are known; a null `f_max` is half the sample rate.
    """
    ours = _known(spectrogram_config or {}, {name: (name,) for name in _SPELLINGS})
    theirs = _known(vocoder_config or {}, _SPELLINGS)
    product = _upsampling(vocoder_config or {})
    channels = _input_channels(vocoder_tensors)
    rules: list[tuple[str, float | None, str, float | None]] = [
        ("the vocoder's upsampling", product, "its hop", theirs.get("hop_length", ours.get("hop_length"))),
        ("its input channels", channels, "its mels", theirs.get("n_mels")),
        ("its input channels", channels, "the model's n_mels", ours.get("n_mels")),
    ]
    rules += [(f"its {name}", theirs.get(name), f"the model's {name}", ours.get(name)) for name in _SPELLINGS]
    found: dict[str, list[str]] = {"mismatches": [], "matches": [], "unknown": []}
    for left, a, right, b in rules:
        if a is None or b is None:
            found["unknown"].append(f"{left} against {right}")
        elif a == b:
            found["matches"].append(f"{left} and {right} are {_show(a)}")
        else:
            found["mismatches"].append(f"{left} is {_show(a)}, {right} is {_show(b)}")
    return Pairing(**{kind: tuple(lines) for kind, lines in found.items()})


def pairing_of(container: Container) -> Pairing | None:
    """How the container's vocoder goes with its model; None without a vocoder."""
    vocoder = container.manifest.vocoder
    if vocoder is None:
        return None
    tensors = container.header("vocoder").tensors.values()
    return check_pairing(container.manifest.spectrogram_config, vocoder.config, tensors)


def _known(config: Mapping[str, Any], spellings: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    known = {}
    for name, keys in spellings.items():
        key = next((key for key in keys if key in config), None)
        if key is not None and _is_number(config[key]):
            known[name] = config[key]
        elif key is not None and name == "f_max" and config[key] is None and "sample_rate" in known:
            known[name] = known["sample_rate"] / 2
    return known


def _upsampling(config: Mapping[str, Any]) -> int | None:
    rates = config.get("upsample_rates")
    if not isinstance(rates, list | tuple) or not 0 < len(rates) <= _MOST_RATES:
        return None
    if not all(type(rate) is int for rate in rates):
        return None
    return math.prod(rates)


def _input_channels(tensors: Iterable[TensorSpec]) -> int | None:
    for spec in tensors:
        if spec.name.removeprefix("module.") in CONV_PRE and len(spec.shape) == 3:
            return spec.shape[1]
    return None


def _show(value: float) -> str:
    return f"{value:g}" if abs(value) < _READABLE else "beyond all measure"


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))
