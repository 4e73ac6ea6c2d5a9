"""Fuzz every target for a bounded time, or run one input again.

python fuzz/run.py --seconds 60                     each target in turn, 60 s in all
python fuzz/run.py --seconds 60 --target header     one target
python fuzz/run.py --again FILE --target header     one input, with its traceback
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import targets  # noqa: E402

_SHARES = {"whole": 3.0, "layout": 2.0, "header": 2.0, "manifest": 2.0}
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_PLACE = re.compile(r"^PLACE (.*)$", re.MULTILINE)
_LEAST = 2.0  # seconds: less is not worth a start


def main() -> None:
    """Parse the options; exit with 1 if there was a finding."""
    options = _options()
    if options.again:
        data = options.again.read_bytes()
        targets.judge(targets.TARGETS[options.target].check, data)
        print("nothing found")
        return
    names = [options.target] if options.target else list(targets.TARGETS)
    options.findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or Path(scratch)
        shares = [_SHARES.get(name, 1.0) for name in names]
        total = findings = 0
        for name, share in zip(names, shares, strict=True):
            runs, found = fuzz(name, options.seconds * share / sum(shares), corpus / name, options.findings)
            total, findings = total + runs, findings + len(found)
            print(f"{name:<10} {runs:>12,} executions  {len(found)} findings", *found, sep="\n  ", flush=True)
    print(f"{'all':<10} {total:>12,} executions  {findings} findings")
    sys.exit(int(findings > 0))


def fuzz(name: str, seconds: float, corpus: Path, findings: Path) -> tuple[int, list[str]]:
    """Fuzz one target; the number of executions, and the files of its findings.

    A finding ends libFuzzer's process, so it is started again for the rest of the time.
    """
    write_seeds(name, corpus)
    words = corpus.with_name(f"{name}.dict")
    dictionary = targets.TARGETS[name].dictionary or ("PK",)  # libFuzzer refuses an empty one
    words.write_text("".join(f'"{escaped(word)}"\n' for word in dictionary))
    runs, seen, known, end = 0, set(), set(), time.monotonic() + seconds
    while (left := end - time.monotonic()) > _LEAST or not runs:
        before = set(findings.iterdir())
        output = run_once(name, left, corpus, words, findings, known)
        known.update(_PLACE.findall(output))
        executed = _EXECUTED.search(output)
        runs += int(executed[1]) if executed else 0
        new = sorted(str(path) for path in set(findings.iterdir()) - before)
        if not new and not executed:
            sys.exit(f"{name} did not start:\n{output}")
        seen.update(new)
        for path in new:
            Path(f"{path}.txt").write_text(reason(output))
    return runs, sorted(seen)


def run_once(name: str, seconds: float, corpus: Path, words: Path, findings: Path, known: set[str]) -> str:
    """One process of libFuzzer that passes over what is known; what it printed."""
    command = [
        sys.executable, str(HERE / "harness.py"), name, f"-max_total_time={max(1, int(seconds))}",
        f"-max_len={targets.TARGETS[name].max_len}", "-print_final_stats=1", "-timeout=20",
        "-rss_limit_mb=2048", f"-artifact_prefix={findings}/{name}-", f"-dict={words}", str(corpus),
    ]  # fmt: skip
    paths = [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment["FUZZ_KNOWN"] = "|".join(known)
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    return done.stdout + done.stderr


def write_seeds(name: str, folder: Path) -> None:
    """Put a target's seeds into its corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in targets.TARGETS[name].seeds():
        (folder / sha256(seed).hexdigest()[:16]).write_bytes(seed)


def reason(output: str) -> str:
    """The traceback in what a process printed, else its end."""
    lines = [line for line in output.splitlines() if not line.startswith(("#", "INFO"))]
    return "\n".join(lines)[-6000:]


def escaped(word: str) -> str:
    """A word of a dictionary as libFuzzer wants it; `\\x` stays."""
    return re.sub(r'\\(?!x[0-9a-f]{2})|"', lambda match: "\\" + match[0], word)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--target", choices=sorted(targets.TARGETS))
    parser.add_argument("--again", type=Path)
    parser.add_argument("--corpus", type=Path, help="keep what was learned in this folder")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
