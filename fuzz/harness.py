"""One target under atheris: `python fuzz/harness.py TARGET [libFuzzer options] [corpus]`.

A finding whose place is in the environment variable `FUZZ_KNOWN` (joined by `|`) is passed over, so
that one bug does not hide the next.
"""

from __future__ import annotations

import os
import random
import sys
import traceback

import atheris

with atheris.instrument_imports(include=["distillgan"]):
    import targets

import mutate


def main() -> None:
    """Fuzz until libFuzzer says stop; the first finding ends the process."""
    name = sys.argv.pop(1)
    check = targets.TARGETS[name].check
    mutator = mutate.MUTATORS.get(name)

    known = os.environ.get("FUZZ_KNOWN", "").split("|")

    def one(data: bytes) -> None:
        try:
            targets.judge(check, data)
        except Exception as error:
            if place(error) not in known:
                print(f"PLACE {place(error)}", flush=True)
                raise

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        try:
            return bytes(mutator(bytes(data), max_size, random.Random(seed), atheris.Mutate))
        except (ValueError, TypeError, ArithmeticError, RecursionError):  # a document too strange to edit
            return bytes(atheris.Mutate(bytes(data), max_size))

    atheris.Setup(sys.argv, one, **({"custom_mutator": change} if mutator else {}))
    atheris.Fuzz()


def place(error: Exception) -> str:
    """What tells a finding from others: its type, and the last line of ours that it passed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "distillgan" in f.filename]
    if isinstance(error, targets.Wrong) or not frames:
        return f"{type(error).__name__} {''.join(c for c in str(error)[:20] if c.isalpha())}"
    return f"{type(error).__name__} {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}"


if __name__ == "__main__":
    main()
