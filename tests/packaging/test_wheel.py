"""What the wheel holds and what importing it costs; run by `make check`."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_installs_the_two_packages_and_nothing_else_at_the_top(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"distillgan", "distillgan_cli"}
    assert "distillgan/py.typed" in names
    assert "distillgan_cli/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
