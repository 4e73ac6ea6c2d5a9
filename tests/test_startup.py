"""What starting up costs: nothing that describing a model does not need is imported."""

from __future__ import annotations

import pytest
from helpers import FIXTURES, ROOT, python

HEAVY = ("torch", "numpy", "rich", "filelock", "safetensors", "soundfile", "gradio")
LOADED = """
import sys
{code}
print([name for name in sys.argv[1].split() if name in sys.modules])
"""
FULL = FIXTURES / "valid" / "full.distillgan"
CLI = "from distillgan_cli.main import cli\ncli.main({!r}, standalone_mode=False)"


@pytest.mark.parametrize(
    "code",
    [
        "import distillgan",
        "import distillgan_cli.main",
        f"import distillgan; distillgan.read_manifest({str(FULL)!r})",
        f"import distillgan; distillgan.verify({str(FULL)!r})",
        CLI.format(["inspect", str(FULL)]),
        CLI.format(["inspect", "--tensors", str(FULL)]),
        CLI.format(["verify", str(FULL)]),
        CLI.format(["--help"]),
        CLI.format(["pack", "--help"]),
    ],
    ids=[
        "import",
        "cli",
        "read_manifest",
        "verify",
        "inspect",
        "inspect tensors",
        "verify command",
        "help",
        "pack help",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    result = python(LOADED.format(code=code), " ".join(HEAVY))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_only_the_torch_layer_mentions_torch_and_numpy() -> None:
    sources = [p for p in (ROOT / "distillgan").glob("*.py") if "page" not in p.name]
    assert len(sources) > 10
    for path in sources:
        lines = path.read_text("utf-8").splitlines()
        found = [
            line for line in lines if line.lstrip().startswith(("import torch", "from torch", "import numpy"))
        ]
        assert not found, path.name


@pytest.mark.parametrize("package", ["distillgan", "distillgan.torch"])
def test_every_exported_name_is_there(package: str) -> None:
    result = python(f"import {package} as p\nassert all(hasattr(p, name) for name in p.__all__)")
    assert result.returncode == 0, result.stderr
