"""The latent analysis as pictures: SVG drawn here, coloured by the page's style sheet.

What an analysis holds is whatever its file says, so junk is left out of the picture.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from ._text import printable

_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip
_MOST = 128  # components or features in one picture
_LABEL = 108  # width of the labels' column
_PLOT = 196
_ROW = 22
_CELL = 24


def analysis_pictures(analysis: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and SVG of each picture that the analysis has the numbers for."""
    names = _labels(analysis)
    variance = _numbers(analysis.get("explained_variance_ratio"))
    if variance:
        yield "Explained variance", _bars(variance, names)
    ranges = [_numbers(analysis.get(key)) for key in ("warning_min", "safe_min", "safe_max", "warning_max")]
    if ranges[1] and ranges[2]:
        yield "Slider ranges", _ranges(ranges, names)
    features = analysis.get("feature_correlations")
    if isinstance(features, dict) and (rows := _features(features)):
        yield "Feature correlations", _heat_map(rows, names)


def _numbers(value: Any) -> list[float]:
    """The numbers of a list or of an array in its JSON form; NaN stands for what is none."""
    if isinstance(value, dict):
        value = _decode_array(value)
    if not isinstance(value, list):
        return []
    return [_number(item) for item in value[:_MOST]]


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float, bool) else math.nan


def _decode_array(value: dict[str, Any]) -> list[Any] | None:
    if value.get("dtype") not in _DTYPES:
        return None
    try:
        data = base64.b64decode(value["base64"], validate=True)
        return list(np.frombuffer(data, np.dtype(value["dtype"]).newbyteorder("<")).tolist())
    except (KeyError, TypeError, ValueError):
        return None


def _labels(analysis: dict[str, Any]) -> list[str]:
    """The components' names: suggested ones, where several are alike with their number."""
    found = analysis.get("suggested_labels") or analysis.get("component_labels")
    names = [item for item in found if isinstance(item, str)] if isinstance(found, list) else []
    return [f"{n + 1} {name}" if not name.endswith(f" {n + 1}") else name for n, name in enumerate(names)]


def _features(features: dict[str, Any]) -> dict[str, list[float]]:
    rows = {name: _numbers(value) for name, value in list(features.items())[:_MOST]}
    return {name: row for name, row in rows.items() if row}


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else f"Axis {index + 1}"


def _text(x: float, y: float, text: str, kind: str = "", most: int = 16) -> str:
    whole = printable(text.replace("_", " "))
    shown = whole if len(whole) <= most else whole[: most - 1] + "…"
    title = f"<title>{escape(whole)}</title>" if shown != whole else ""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{title}{escape(shown)}</text>'


def _svg(width: float, height: float, summary: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(printable(summary))}">{"".join(parts)}</svg>'
    )


def _bars(values: list[float], names: list[str]) -> str:
    """A bar and a percentage for each component."""
    known = [value for value in values if math.isfinite(value) and value > 0]
    scale = (_PLOT - 44) / max(known, default=1.0)
    parts = []
    for index, value in enumerate(values):
        y = index * _ROW
        length = value * scale if math.isfinite(value) and value > 0 else 0.0
        shown = f"{value:.1%}" if math.isfinite(value) else "?"
        parts.append(_text(0, y + 15, _name(names, index)))
        parts.append(f'<rect x="{_LABEL}" y="{y + 4}" width="{length:.1f}" height="14" rx="3" class="bar"/>')
        parts.append(_text(_LABEL + length + 6, y + 15, shown, "value"))
    total = sum(known)
    summary = f"Explained variance of {len(values)} components, {total:.0%} together"
    return _svg(_LABEL + _PLOT, len(values) * _ROW, summary, parts)


def _ranges(ranges: list[list[float]], names: list[str]) -> str:
    """For each slider the safe range inside the range with a warning, on one common axis."""
    warn_low, low, high, warn_high = ranges
    rows = list(zip(warn_low or low, low, high, warn_high or high, strict=False))
    finite = [value for row in rows for value in row if math.isfinite(value)] or [0.0]
    least, most = min(*finite, 0.0), max(*finite, 0.0)
    scale = (_PLOT - 8) / ((most - least) or 1.0)

    def at(value: float) -> float:
        return _LABEL + 4 + (value - least) * scale

    bottom = len(rows) * _ROW
    parts = [f'<line x1="{at(0):.1f}" x2="{at(0):.1f}" y1="0" y2="{bottom}" class="axis"/>']
    for index, row in enumerate(rows):
        parts.append(_text(0, index * _ROW + 15, _name(names, index)))
        if all(map(math.isfinite, row)):
            parts += _range(index * _ROW, [at(value) for value in row], row)
    for value, kind in ((least, "start"), (0.0, "middle"), (most, "end")):
        parts.append(_text(at(value), bottom + 15, f"{value:.1f}", f"value {kind}"))
    return _svg(_LABEL + _PLOT, bottom + 20, f"Ranges of {len(rows)} sliders", parts)


def _range(y: float, places: list[float], values: Sequence[float]) -> Iterator[str]:
    title = "safe {1:.2f} to {2:.2f}, warning from {0:.2f} to {3:.2f}".format(*values)
    yield f"<g><title>{title}</title>"
    for left, right, height, kind in ((0, 3, 6, "warn"), (1, 2, 14, "bar")):
        width = max(places[right] - places[left], 0.0)
        top = y + 11 - height / 2
        yield (
            f'<rect x="{places[left]:.1f}" y="{top:g}" width="{width:.1f}" '
            f'height="{height}" rx="3" class="{kind}"/>'
        )
    yield "</g>"


def _heat_map(rows: dict[str, list[float]], names: list[str]) -> str:
    """A cell for each feature and component: red together, blue against each other."""
    columns = max(map(len, rows.values()))
    parts = [_text(_LABEL + (c + 0.5) * _CELL, 14, str(c + 1), "value middle") for c in range(columns)]
    for r, (feature, row) in enumerate(rows.items()):
        y = 20 + r * 24
        parts.append(_text(0, y + 16, feature))
        for c, value in enumerate(row):
            parts.append(_cell(_LABEL + c * _CELL, y, value, f"{feature} and {_name(names, c)}"))
    summary = f"Correlation of {len(rows)} features with {columns} components"
    return _svg(_LABEL + columns * _CELL, 24 + len(rows) * 24, summary, parts)


def _cell(x: float, y: float, value: float, pair: str) -> str:
    if not math.isfinite(value):
        return _text(x + _CELL / 2, y + 16, "–", "value middle")
    strength = min(abs(value), 1.0)
    kind = "with" if value > 0 else "against"
    shown = f"{abs(value):.1f}".lstrip("0") if strength < 0.95 else "1"
    sign = "−" if value < 0 and shown != ".0" else ""
    return (
        f'<g><title>{escape(printable(pair))}: {value:.2f}</title><rect x="{x + 1:g}" y="{y + 1:g}" '
        f'width="{_CELL - 2}" height="22" rx="3" class="{kind}" fill-opacity="{strength:.2f}"/>'
        f"{_text(x + _CELL / 2, y + 16, sign + shown, 'value middle')}</g>"
    )
