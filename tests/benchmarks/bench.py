"""Measure distillgan beside its floors and peers, in one run: `python tests/benchmarks/bench.py`.

Prints a table of ratios, writes it as JSON, and exits with 1 when a target is missed by more than
the spread, or when a row could not be measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, not an installed copy
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "cli"))

import growth
import report
import rows_cuda
import rows_library
import rows_memory
import rows_read
import rows_save
import torch
from data import REPOSITORY, Data
from measure import SkippedRowError, measure

RESULTS = REPOSITORY / "bench-results"
_MODULES = (rows_read, rows_save, rows_library, rows_memory, rows_cuda)

Document = dict[str, Any]


def main() -> int:
    """Run the rows that were asked for; return the exit code."""
    options = _options()
    if options.markdown:
        print("\n".join(report.markdown(json.loads(options.output.read_text()))))
        return 0
    torch.set_num_threads(1)  # summing what was loaded is the same work for all; threads only add noise
    document: Document = {"machine": report.machine(), "rows": [], "growth": []}
    document |= {"skipped": {}, "failed": {}, "took": {}}
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RESULTS) as folder:  # the checkout's disk; /tmp may be memory
        data = Data(Path(folder), quick=options.quick, full=options.full)
        for name, run in _jobs(data, options, document):
            if not options.only or any(part in name for part in options.only):
                _guarded(name, run, document)
    document["load"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    options.output.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _summarize(document, options.output)


def _jobs(
    data: Data, options: argparse.Namespace, document: Document
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each row's name, and what measures it, records it and gives its text."""
    for module in _MODULES:
        for name, build in module.plans():
            yield name, lambda build=build: _measure(build, data, options.rounds, document)
    for name, grow in growth.plans():
        yield name, lambda grow=grow: _grow(grow, data, document)


def _measure(build: Callable[[Data], Any], data: Data, rounds: int, document: Document) -> str:
    row = build(data)
    gc.collect()
    gc.freeze()  # what is there already is not to be walked in each collection
    result = measure(row, rounds)
    document["rows"].append(report.as_json(result))
    return report.text(result)


def _grow(grow: Callable[[Data], growth.Growth], data: Data, document: Document) -> str:
    found = grow(data)
    document["growth"].append(report.growth_as_json(found))
    return report.growth_text(found)


def _guarded(name: str, run: Callable[[], str], document: Document) -> None:
    """Run a row; one that cannot be measured never stops the others."""
    start = time.monotonic()
    try:
        print(run(), flush=True)
        document["took"][name] = round(time.monotonic() - start, 1)
    except (SkippedRowError, ImportError) as reason:  # no device, a peer that is not installed
        document["skipped"][name] = str(reason)
        print(f"{name}: skipped: {reason}", flush=True)
    except Exception as error:
        document["failed"][name] = f"{type(error).__name__}: {error}"
        print(f"{name}: failed: {document['failed'][name]}", flush=True)
        traceback.print_exc()


def _summarize(document: Document, output: Path) -> int:
    verdicts = [(row["name"], verdict) for row in document["rows"] for verdict in row["verdicts"]]
    missed = [name for name, verdict in verdicts if verdict["result"] == "missed"]
    missed += [row["name"] for row in document["growth"] if not row["met"]]
    total = len(verdicts) + len(document["growth"])
    failed = list(document["failed"])
    print(f"\n{total - len(missed)} of {total} targets met or within the spread; {output}")
    for word, names in (("missed", missed), ("failed", failed), ("skipped", list(document["skipped"]))):
        if names:
            print(f"{word}: {'; '.join(names)}")
    return int(bool(missed or failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure distillgan beside its floors and peers.")
    parser.add_argument(
        "--only", action="append", metavar="ROW", help="rows whose name holds this; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=None, help="rounds by row (default 15, quick 5)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a library of 1,000")
    parser.add_argument("--full", action="store_true", help="growth to 8 GB and to 100,000 files")
    parser.add_argument("--output", type=Path, default=RESULTS / "bench.json", help="the JSON document")
    parser.add_argument("--markdown", action="store_true", help="print the last document as tables")
    options = parser.parse_args()
    options.rounds = options.rounds or (5 if options.quick else 15)
    return options


if __name__ == "__main__":
    sys.exit(main())
