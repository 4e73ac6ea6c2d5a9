"""Draw the last results as SVG, one picture by row: `python tests/benchmarks/plots.py [JSON]`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "bench-results"


def main() -> int:
    """Draw every row and every growth of a document beside it."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "bench.json"
    if not source.exists():
        print(f"{source.name} is not there: run `make bench` first.", file=sys.stderr)
        return 2
    document = json.loads(source.read_text(encoding="utf-8"))
    for row in document["growth"]:
        draw_growth(row, source.parent)
    for row in document["rows"]:
        draw_row(row, source.parent)
    print(f"{len(document['growth']) + len(document['rows'])} pictures in {source.parent.name}/")
    return 0


def draw_growth(row: dict[str, Any], folder: Path) -> None:
    """Cost against size, both in logarithms."""
    figure, axes = _figure(row["name"])
    for name, slope in row["exponents"].items():
        xs = [point["x"] for point in row["points"]]
        ys = [point["medians"][name] for point in row["points"]]
        axes.plot(
            xs, ys, marker="o", label=f"{name} (exponent {slope:.2f})", linewidth=2 if name == "ours" else 1
        )
    axes.set(xscale="log", yscale="log", xlabel=row["axis"], ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, row["name"], folder)


def draw_row(row: dict[str, Any], folder: Path) -> None:
    """The medians of every contestant as bars."""
    figure, axes = _figure(row["name"])
    names = list(row["medians"])[::-1]
    values = [row["medians"][name] for name in names]
    axes.barh(names, values, color=["tab:blue" if name == "ours" else "tab:gray" for name in names])
    axes.set(xscale="log", xlabel="seconds" if row["unit"] == "s" else "bytes")
    _save(figure, row["name"], folder)


def _figure(title: str) -> Any:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.set_title(title)
    return figure, axes


def _save(figure: Any, name: str, folder: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(folder / (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".svg"))
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
