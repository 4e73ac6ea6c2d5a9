"""The documents say what happens: sessions and Python of the README are run, links and names resolve.

Run as a script, it writes what the commands print now into the README.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner
from helpers import V1_REFERENCE

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
APP = ROOT / "fixtures" / "app"
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "fixtures" / "README.md"])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARYING = (  # what differs from run to run, but not in length
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"), "MOMENT"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "DIGEST"),
    (re.compile(r"SHA256:[\w+/]{43}"), "FINGERPRINT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DATE"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "SHORT"),
    (re.compile(r"distillgan \d+\.\d+\.\d+"), "distillgan VERSION"),
)


class Step(NamedTuple):
    """A command of a session, and what the README shows after it."""

    command: str
    shown: str


class Terminal:
    """Runs commands as a person would see them: in a folder, on a terminal of 80 columns."""

    def __init__(self, folder: Path):
        self.folder = folder
        programs = folder / ".programs"
        programs.mkdir()
        for name, arguments in (("distillgan", " -m distillgan_cli"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
            program.chmod(0o755)
        (folder / "fixtures").symlink_to(ROOT / "fixtures")
        paths = [str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "COLUMNS": "80",
            "TERM": "dumb",
            "NO_COLOR": "1",
        }

    def run(self, command: str) -> str:
        """What a command prints, on either stream."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value
            return ""
        import pty  # not on Windows

        master, slave = pty.openpty()
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        printed = b"".join(_chunks(master))
        process.wait(timeout=60)
        text = printed.decode().replace("\r\n", "\n")
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@pytest.fixture(autouse=True)
def no_app_stays_imported() -> Iterator[None]:
    """The stand-ins for the app's modules are gone again after a test."""
    yield
    for name in [name for name in sys.modules if name == "distill" or name.startswith("distill.")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Step, str]]]:
    """The folder in which the README's session ran, and each step with what it printed."""
    if os.name == "nt":
        pytest.skip("the session is one of a POSIX shell")
    for tool in ("unzip", "ssh-keygen"):
        if shutil.which(tool) is None and not os.environ.get("CI"):
            pytest.skip(f"needs {tool}")
    terminal = Terminal(tmp_path_factory.mktemp("session"))
    return terminal.folder, [(step, terminal.run(step.command)) for step in steps()]


def test_the_session_prints_what_the_readme_shows(session: tuple[Path, list[tuple[Step, str]]]) -> None:
    assert session[1]
    for step, printed in session[1]:
        assert normal(printed) == normal(step.shown), f"$ {step.command}\n{printed}"


def test_the_python_of_the_readme_prints_what_it_shows(
    session: tuple[Path, list[tuple[Step, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(session[0])
    examples = python_examples()
    assert len(examples) == 2
    for code, shown in examples:
        assert printed_by(code) == shown


def test_the_library_is_shown_in_ten_lines() -> None:
    code, _ = python_examples()[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_app_can_call_the_library_where_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = run_app(monkeypatch)
    saved = save_after_training(app, tmp_path)
    assert (saved.name, app["metadata"].model_id) == ("rain_on_tin.distillgan", "")

    app["app_state"].model_library = app["ModelLibrary"](tmp_path)
    save_after_training(app, tmp_path)  # the tab is open, and a training ends
    entries = app["get_models"](" RAIN ")
    assert [entry.name for entry in entries] == ["Rain on tin"] * 2
    tab = app["load_selected"](entries[0].model_id)
    assert (tab.model.latent_dim, tab.spectrogram.config.n_mels) == (8, 128)
    assert tab.analysis["n_active_components"] == 2

    for reference in (str(saved), entries[0].model_id, entries[1].model_id[:8]):
        assert app["resolve_model"](reference, tmp_path, "cpu").metadata.name == "Rain on tin"
    assert not caplog.records


def test_the_app_gets_the_sentences_for_what_cannot_be_resolved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = run_app(monkeypatch)
    for _ in range(2):
        save_after_training(app, tmp_path)
    expected = {
        "gone.distillgan": "Model file not found: gone.distillgan",
        "old.distill": V1_REFERENCE,
        "Rain": "Model not found: Rain",
        "Rain on tin": "Ambiguous model reference 'Rain on tin'. Matches: ",
    }
    for reference, sentence in expected.items():
        with pytest.raises(click.BadParameter) as caught:
            app["resolve_model"](reference, tmp_path, "cpu")
        assert caught.value.message.startswith(sentence)


def test_the_app_loads_its_own_network_with_the_weights_of_the_checkpoint(
    session: tuple[Path, list[tuple[Step, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    path = session[0] / "models" / "rain_on_tin.distillgan"
    ours = load(path).model
    app = run_app(monkeypatch)
    theirs = app["load_model"](path).model
    assert type(theirs).__module__ == "distill.models.vae"
    z = torch.linspace(-1, 1, 8).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(theirs.decoder(z)[..., :128, :94], ours.decode(z))


def test_the_readme_lists_every_command() -> None:
    listed = {name for row in command_rows() for name in re.findall(r"`([a-z ]+)`", row)}
    assert listed == set(commands())


def test_every_command_has_help_that_fits_in_80_columns() -> None:
    from distillgan_cli.main import cli

    for name, command in commands(groups=True).items():
        result = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="distillgan")
        lines = result.output.splitlines()
        assert result.exit_code == 0, name
        assert command.help, f"{name} has no help"
        assert lines[0].startswith(f"Usage: distillgan {name}")
        assert max(map(len, lines)) <= 80, name
        undocumented = [
            p.name for p in command.params if isinstance(p, click.Option) and not p.help and not p.hidden
        ]
        assert not undocumented, f"{name}: {undocumented}"


def test_the_completion_set_up_is_that_of_click() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert f"_DISTILLGAN_COMPLETE={shell}_source distillgan" in README.read_text("utf-8")
        result = subprocess.run(
            [sys.executable, "-c", "from distillgan_cli.main import cli; cli(prog_name='distillgan')"],
            env=os.environ | {
                "_DISTILLGAN_COMPLETE": f"{shell}_source",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "bash" not in result.stderr.lower():  # click asks the system's bash for its version
            assert "_DISTILLGAN_COMPLETE" in result.stdout, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_the_documents_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text("utf-8"))):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_documents_name_no_machine_and_no_broken_code_point(page: Path) -> None:
    text = page.read_text("utf-8")
    assert not re.findall(r"(?<![\w.])/(?:work|root|home|tmp|Users)/\S*", text)
    assert "\ufffd" not in text
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_the_make_targets_that_the_documents_name_exist() -> None:
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", pages, re.MULTILINE))
    assert named
    assert named <= rules


def test_the_findings_of_fuzzing_name_vectors_and_tests_that_exist() -> None:
    rows = re.findall(r"\| ([^|]+) \|$", (ROOT / "FUZZING.md").read_text("utf-8"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([a-z]+-[a-z0-9-]+|tests/\w+\.py)`", row)]
    assert len(named) >= 3
    for name in named:
        assert (ROOT / name).exists() or list((ROOT / "fixtures" / "invalid").glob(f"{name}.*")), name


def test_the_changelog_has_the_version_of_the_package() -> None:
    from distillgan import __version__

    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def steps() -> Iterator[Step]:
    """The commands of all sessions, in order; one that ends in a backslash goes on in the next line."""
    for language, body in FENCE.findall(README.read_text("utf-8")):
        if language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command = re.match(r"(?:[^\n]*\\\n)*[^\n]*", part)[0]
                yield Step(command, part[len(command) + 1 :])


def normal(text: str) -> str:
    """Text without what differs from run to run."""
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return text


def python_examples() -> list[tuple[str, str]]:
    """The Python of the README that prints, and what it shows."""
    blocks = FENCE.findall(README.read_text("utf-8"))
    return [
        (body, after)
        for (language, body), (next_language, after) in itertools.pairwise(blocks)
        if (language, next_language) == ("python", "text")
    ]


def printed_by(code: str) -> str:
    """What Python code prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "README"})
    return printed.getvalue()


def run_app(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the three blocks of *Coming from the app* define, run against stand-ins."""
    from distillgan.torch import _load

    monkeypatch.syspath_prepend(str(APP))
    for name in [name for name in sys.modules if name.split(".")[0] in ("distill", "typer")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(_load, "_architectures", dict(_load._architectures))
    section = README.read_text("utf-8").partition("\n## Coming from the app\n")[2].partition("\n## ")[0]
    blocks = [body for language, body in FENCE.findall(section) if language == "python"]
    assert len(blocks) == 3
    names: dict[str, Any] = {"__name__": "README"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    return names


def save_after_training(app: dict[str, Any], folder: Path) -> Path:
    """What the app does when a training ends, with a network of its own."""
    import numpy as np

    model = app["ConvVAE"](latent_dim=8)
    model.encoder._init_linear(256 * 8 * 6)
    model.decoder._init_linear((8, 6))
    app["metadata"] = app["ModelMetadata"](name="Rain on tin", dataset_name="field", training_epochs=7)
    return Path(
        app["save_model"](
            model=model,
            spectrogram_config=vars(app["SpectrogramConfig"]()),
            training_config={"latent_dim": 8},
            metadata=app["metadata"],
            models_dir=folder,
            analysis={"n_active_components": 2, "pca_mean": np.zeros(8, np.float32)},
        )
    )


def load(path: Path) -> Any:
    """A model with the network that comes with the library."""
    from distillgan.torch import load_model

    return load_model(path)


def commands(*, groups: bool = False) -> dict[str, click.Command]:
    """Every command by its full name."""
    from distillgan_cli.main import cli

    return dict(_walk(cli, "", groups=groups))


def _walk(group: click.Group, prefix: str, *, groups: bool) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if groups or not isinstance(command, click.Group):
            yield prefix + name, command
        if isinstance(command, click.Group):
            yield from _walk(command, f"{prefix}{name} ", groups=groups)


def command_rows() -> list[str]:
    """The first cell of each row of the README's table of commands."""
    section = README.read_text("utf-8").partition("\n## Commands\n")[2]
    table = section[section.index("|---") :].partition("\n\n")[0]
    return [line.split("|")[1] for line in table.splitlines()[1:]]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    """A page without its blocks of code, in which a bracket or a # means something else."""
    return FENCE.sub("", text)


def _chunks(master: int) -> Iterator[bytes]:
    """What is printed on a terminal, until nobody holds its other end any more."""
    with open(master, "rb", buffering=0) as file, contextlib.suppress(OSError):
        while chunk := file.read(65536):
            yield chunk


def rewrite_sessions() -> None:
    """Put what the commands print now into the README, all of it from one session."""
    text = README.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        terminal = Terminal(Path(folder))
        for step in list(steps()):
            before = f"$ {step.command}\n{step.shown}"
            assert before in text, step.command
            text = text.replace(before, f"$ {step.command}\n{terminal.run(step.command)}", 1)
    README.write_text(text, "utf-8")


if __name__ == "__main__":
    rewrite_sessions()
