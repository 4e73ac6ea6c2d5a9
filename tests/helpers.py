"""What the tests of several modules share: small models, bit comparison, processes, edited pickles."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "fixtures"
REAL = FIXTURES / "real"
CHECKPOINT = REAL / "distill_checkpoint_epoch0006.pt"
GENERATOR = REAL / "hifigan_g_00000006"
GENERATOR_CONFIG = REAL / "hifigan_config.json"
V1_FILE = "This model was saved in v1 format which is no longer supported. Please retrain your model."
V1_REFERENCE = (
    "This model was saved in v1 format (.distill) which is no longer supported. Please retrain your model."
)
SPECTROGRAM = {
    "sample_rate": 8000, "n_fft": 256, "hop_length": 64, "n_mels": 4, "f_min": 0.0, "f_max": None,
}  # fmt: skip


def distillgan(*arguments: object) -> Result:
    """Run the command line in this process."""
    from distillgan_cli.main import cli

    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def environment() -> dict[str, str]:
    """The environment of a process of ours, with both packages importable."""
    paths = [str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUTF8": "1"}


def python(
    code: str, *arguments: object, timeout: float = 50, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment(), check=False, **options
    )


def command(*arguments: object, timeout: float = 50, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    argv = [sys.executable, "-m", "distillgan_cli", *map(str, arguments)]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout, env=environment(), check=False, **options
    )


def names_in(folder: Path) -> list[str]:
    """Every name in a folder, hidden ones too."""
    return sorted(os.listdir(folder))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def edit_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes in the pickle of a file that torch.save wrote, zip or not."""
    data = path.read_bytes()
    if data[:2] != b"PK":
        assert old in data
        path.write_bytes(data.replace(old, new))
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            body = source.read(name)
            if name.endswith("/data.pkl"):
                assert old in body
                body = body.replace(old, new)
            target.writestr(name, body)
    path.write_bytes(buffer.getvalue())


def pickled_text(text: str) -> bytes:
    """The opcode that pushes a string in protocol 2."""
    raw = text.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw
