"""Fixtures of all tests; every test starts without a library folder of its user's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import CHECKPOINT, GENERATOR, GENERATOR_CONFIG, distillgan


@pytest.fixture(autouse=True)
def _no_library_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILLGAN_LIBRARY", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="session")
def real_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real checkpoint and vocoder, packed; never to be changed."""
    path = tmp_path_factory.mktemp("real") / "pair.distillgan"
    options = ("--vocoder", GENERATOR, "--vocoder-config", GENERATOR_CONFIG, "--vocoder-epochs", 200)
    result = distillgan("pack", CHECKPOINT, *options, "--vocoder-loss", 0.0342, "-o", path)
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture
def pair(real_pair: Path, tmp_path: Path) -> Path:
    """A copy of the real pair that a test may damage."""
    return Path(shutil.copy(real_pair, tmp_path / "pair.distillgan"))
