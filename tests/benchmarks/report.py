"""Results as text, as Markdown, and as JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from growth import Growth
from measure import Ratio, Result, Target, Verdict

_PACKAGES = ("torch", "safetensors", "huggingface_hub", "tensordict", "msgspec", "blake3", "isal", "click")


def machine() -> dict[str, Any]:
    """The machine in general words, and the versions."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": versions,
    }


def text(result: Result) -> str:
    """A row for a terminal."""
    ours = next(iter(result.medians))
    lines = [f"{result.name:<52} {quantity(result.medians[ours], result.unit):>10}"]
    if result.note:
        lines[0] += f"   ({result.note})"
    for name, ratio in result.ratios.items():
        value = quantity(result.medians[name], result.unit)
        lines.append(f"    {name:<24} {value:>10}   ours / it {spread(ratio)}")
    lines += [f"    target {target(v.target)}: {spread(v.ratio)} {v.result}" for v in result.verdicts]
    return "\n".join(lines)


def growth_text(growth: Growth) -> str:
    """A growth for a terminal."""
    lines = [f"{growth.name} (exponents; ours at most {growth.limit})"]
    for name, value in growth.exponents.items():
        shown = ", ".join(f"{_count(x)}: {quantity(medians[name], 's')}" for x, medians in growth.points)
        lines.append(f"    {name:<24} {value:5.2f}   {shown}")
    lines.append(f"    {'missed' if growth.missed else 'met'}")
    return "\n".join(lines)


def markdown(document: dict[str, Any]) -> Iterator[str]:
    """The tables of BENCHMARKS.md from a JSON document."""
    yield "| work | ours | ours / others, median [quartiles] | target | |"
    yield "|---|---|---|---|---|"
    for row in document["rows"]:
        yield _markdown_row(row)
    yield ""
    yield "| growth | range | exponent of ours | of the others | at most |"
    yield "|---|---|---|---|---|"
    for row in document["growth"]:
        yield _markdown_growth(row)


def as_json(result: Result) -> dict[str, Any]:
    """A row for the JSON document."""
    return dataclasses.asdict(result)


def growth_as_json(growth: Growth) -> dict[str, Any]:
    """A growth for the JSON document."""
    points = [{"x": x, "medians": medians} for x, medians in growth.points]
    return {
        "name": growth.name,
        "axis": growth.axis,
        "limit": growth.limit,
        "exponents": growth.exponents,
        "met": not growth.missed,
        "points": points,
    }


def quantity(value: float, unit: str) -> str:
    """A time or a size with three digits."""
    if unit == "B":
        return f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value:,.0f} B"
    for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value / 1e-9:.3g} ns"


def spread(ratio: Ratio) -> str:
    """A ratio with its quartiles."""
    return f"{ratio.median:.3g}× [{ratio.low:.3g}–{ratio.high:.3g}]"


def target(wanted: Target) -> str:
    """A target in words."""
    more = f" + {quantity(wanted.minus, 's')}" if wanted.minus else ""
    best = " (the faster)" if len(wanted.against) > 1 else ""
    return f"≤ {wanted.limit:.3g}× {' / '.join(wanted.against)}{best}{more}"


def _markdown_row(row: dict[str, Any]) -> str:
    ours = next(iter(row["medians"]))
    ratios = "; ".join(f"{name} {spread(Ratio(**ratio))}" for name, ratio in row["ratios"].items())
    verdicts = [Verdict(Target(**v["target"]), Ratio(**v["ratio"]), v["result"]) for v in row["verdicts"]]
    targets = "; ".join(target(v.target) for v in verdicts)
    results = "; ".join(v.result for v in verdicts)
    value = quantity(row["medians"][ours], row["unit"])
    return f"| {row['name']} | {value} | {ratios} | {targets} | {results} |"


def _markdown_growth(row: dict[str, Any]) -> str:
    others = {name: value for name, value in row["exponents"].items() if name != "ours"}
    shown = ", ".join(f"{name} {value:.2f}" for name, value in others.items())
    first, last = row["points"][0]["x"], row["points"][-1]["x"]
    reach = f"{_count(first)} to {_count(last)} {row['axis']}"
    name = row["name"].removeprefix("growth: ")
    return f"| {name} | {reach} | {row['exponents']['ours']:.2f} | {shown} | {row['limit']} |"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e5 else f"{value:.2g}"
