"""Measure contestants side by side: interleaved rounds, medians, and the spread of each round's ratio."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BATCH_SECONDS = 0.01  # quick work is repeated until a sample takes this long
MOST_CALLS = 10_000
BEST_OF = 3  # quick work: the best of so many batches, so that an interruption spoils none
SLOW_SECONDS = 3.0  # what takes longer in all rounds together is measured in fewer rounds

Run = Callable[[], object]
Hook = Callable[[str], object]


class SkippedRowError(Exception):
    """A row that cannot be measured here, and why."""


@dataclass(frozen=True)
class Target:
    """Ours, less `minus`, is at most `limit` times the least of the contestants `against`."""

    against: tuple[str, ...]
    limit: float
    minus: float = 0.0


@dataclass
class Row:
    """Contestants that do the same work; the first is ours.

    A number in place of a function is a fixed allowance. `before` and `after` are run around each
    call, outside the clock, with the contestant's name; a row that has them is not repeated within a
    sample. Rows in bytes measure what their functions return.
    """

    name: str
    contestants: Mapping[str, Run | float]
    targets: Sequence[Target] = ()
    unit: str = "s"
    before: Hook | None = None
    after: Hook | None = None
    rounds: int | None = None
    note: str = ""


@dataclass
class Ratio:
    """Quartiles of a ratio over the rounds."""

    low: float
    median: float
    high: float


@dataclass
class Verdict:
    """A target and how it came out: `met`, `within spread` or `missed`."""

    target: Target
    ratio: Ratio
    result: str


@dataclass
class Result:
    """What was measured for a row."""

    name: str
    unit: str
    medians: dict[str, float]
    ratios: dict[str, Ratio]
    verdicts: list[Verdict] = field(default_factory=list)
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether a target is missed by more than the spread."""
        return any(verdict.result == "missed" for verdict in self.verdicts)


def measure(row: Row, rounds: int) -> Result:
    """Measure a row: in each round every contestant once, each round beginning with another one."""
    names = list(row.contestants)
    took = {name: _rehearse(row, name) for name in names}
    calls = {name: _calls(row, name, took[name]) for name in names}
    enough = {name: _enough(took[name]) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(row.rounds or rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            if number < enough[name]:
                samples[name].append(_sample(row, name, calls[name]))
    ours = samples[names[0]]
    medians = {name: statistics.median(values) for name, values in samples.items()}
    ratios = {name: _quartiles(ours, samples[name]) for name in names[1:]}
    verdicts = [_judge(target, ours, samples) for target in row.targets]
    return Result(row.name, row.unit, medians, ratios, verdicts, row.note)


def exponent(points: Iterable[tuple[float, float]]) -> float:
    """The slope of a line through points in logarithms: 0 is constant, 1 is proportional."""
    from math import log

    logs = [(log(x), log(y)) for x, y in points]
    mean_x = statistics.fmean(x for x, _ in logs)
    mean_y = statistics.fmean(y for _, y in logs)
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread


def _rehearse(row: Row, name: str) -> float:
    """What a call takes, once it has warmed up."""
    if row.unit != "s" or isinstance(row.contestants[name], int | float):
        return 0.0
    first = _sample(row, name, 1)
    return first if first > 1.0 else min(_sample(row, name, 1), _sample(row, name, 1))


def _calls(row: Row, name: str, took: float) -> int:
    """How many calls fill a sample."""
    if not took or row.before is not None or row.after is not None:
        return 1
    return max(1, min(MOST_CALLS, round(BATCH_SECONDS / BEST_OF / took)))


def _enough(took: float) -> int:
    """How many rounds something slow takes part in: three, or one if it takes seconds."""
    least = 3 if took < SLOW_SECONDS else 1
    return max(least, round(SLOW_SECONDS / max(took, 1e-6)))


def _sample(row: Row, name: str, calls: int) -> float:
    run: Any = row.contestants[name]
    if isinstance(run, int | float):
        return float(run)
    if row.before is not None:
        row.before(name)
    gc.collect()
    try:
        if row.unit != "s":
            return float(run())
        return min(_time(run, calls) for _ in range(BEST_OF if calls > 1 else 1))
    finally:
        if row.after is not None:
            row.after(name)


def _time(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def _judge(target: Target, ours: list[float], samples: Mapping[str, list[float]]) -> Verdict:
    best = min(target.against, key=lambda name: statistics.median(samples[name]))
    ratio = _quartiles([value - target.minus for value in ours], samples[best])
    if ratio.median <= target.limit:
        result = "met"
    else:
        result = "within spread" if ratio.low <= target.limit else "missed"
    return Verdict(target, ratio, result)


def _quartiles(ours: list[float], others: list[float]) -> Ratio:
    values = sorted(a / b if b else float("inf") for a, b in zip(ours, others, strict=False))
    if len(values) < 3:
        return Ratio(values[0], statistics.median(values), values[-1])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(low, median, high)
