"""Several files in one command: a bad one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distillgan.errors import DistillganError

from ._shared import find_file, show, show_json
from .main import complain, exit_code


def each_file(
    references: tuple[str, ...], library: Path | None, as_json: bool, work: Callable[[Path], object]
) -> int:
    """Do the work on each file and show its path or the line returned; return the worst exit code."""
    worst = 0
    done: list[dict[str, str]] = []
    for reference in references:
        try:
            path = find_file(reference, library)
            line = work(path)
            done.append({"path": str(path)})
            if not as_json:
                show(line if isinstance(line, str) else str(path))
        except (DistillganError, OSError) as error:
            complain(error)
            worst = max(worst, exit_code(error))
    if as_json:
        show_json(done)
    return worst
