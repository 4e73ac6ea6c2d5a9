"""Names, tags, tensor names, configurations and file names that would like to be more than text.

Every command is run on them: piped and in a pseudo-terminal, with `--json` and without. What comes
out draws itself and does nothing else; JSON is ASCII and gives the same strings back.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from helpers import FIXTURES, environment
from torch_helpers import fixed_metadata, save, vocoder_state

sys.path.insert(0, str(FIXTURES))

from _model import Model, Tensor, edited, header_text, reworded, rewritten, small, weights

from distillgan import Container
from distillgan.catalog import ModelLibrary
from distillgan.torch import load_model

BIDI = "\u202e\u2066\u200f"
UNSEEN = "\u200b\u2060\ufeff\u00ad"
MARKUP = "[bold red]x[/] [link=file:///etc]y[/link] :bomb:"
HTML = "<img src=x onerror=alert(1)>'\"&amp;"
FORMULA = '=HYPERLINK("http://x",1)'
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b6n\r\x08\x7f"
SHOWN = f"{FORMULA} {MARKUP} {HTML} {BIDI} {UNSEEN} \u2028é"  # what a manifest's displayed strings may hold
FILE = f"e{ESCAPES}{BIDI}{MARKUP}\n.distillgan".replace("/", ":")
RAW_FILE = b"not-\xff\xfe-unicode.distillgan"

# What each command is given; MODEL and OTHER are hostile models, BAD a folder of hostile bad files.
COMMANDS: dict[str, list[list[str]]] = {
    "pack": [["STATE", "-o", "OUT", "--name", SHOWN, "--tag", SHOWN], ["STATE", "-o", f"nowhere{ESCAPES}/x"]],
    "inspect": [["MODEL"], ["MODEL", "--tensors"], ["HOSTILE"], [f"no{ESCAPES}such"]],
    "verify": [["MODEL"], ["BAD"], ["HOSTILE"], [f"no{ESCAPES}such.distillgan"]],
    "unpack": [
        ["MODEL", "-d", "OUT"],
        ["HOSTILE", "-d", "OUT"],
        ["MODEL", "-d", "OUT", "--component", ESCAPES],
    ],
    "compress": [["HOSTILE", "-o", "OUT"]],
    "decompress": [["HOSTILE", "-o", "OUT"]],
    "diff": [
        ["MODEL", "OTHER"],
        ["MODEL", "OTHER", "--values"],
        ["MODEL", "HOSTILE"],
        ["MODEL", f"no{ESCAPES}"],
    ],
    "attach": [["MODEL", "VOCODER", "--vocoder-type", SHOWN, "--allow-mismatch"], ["HOSTILE", "STATE"]],
    "strip": [["MODEL"], ["HOSTILE"], [f"no{ESCAPES}"]],
    "edit": [
        ["MODEL", "--add-tag", SHOWN],
        ["MODEL", "--name", ESCAPES],
        ["MODEL", "--set", f"{ESCAPES}={SHOWN}"],
    ],
    "sign": [["HOSTILE", "--key", f"no{ESCAPES}key"]],
    "model list": [["--library", "LIBRARY"], ["--library", "LIBRARY", "--search", ESCAPES]],
    "model info": [[SHOWN, "--library", "LIBRARY"], [f"no{ESCAPES}", "--library", "LIBRARY"]],
    "model delete": [
        [f"no{ESCAPES}", "--library", "LIBRARY", "--force"],
        [SHOWN, "--library", "LIBRARY", "--force"],
    ],
    "catalog scan": [["LIBRARY"], ["LIBRARY", "--jsonl"]],
    "catalog repair": [["--library", "LIBRARY"]],
    "catalog export": [["--library", "LIBRARY"], ["--library", "LIBRARY", "--format", "csv"]],
}
ELSEWHERE = {"catalog page"}  # tests/page: a server, not text
TABLES = (["model", "list", "--library", "LIBRARY"], ["inspect", "MODEL", "--tensors"])
CASES = [
    pytest.param(name.split() + arguments, id=f"{name}-{number}")
    for name, rows in COMMANDS.items()
    for number, arguments in enumerate(rows)
]
needs_pty = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy of what was built, to be changed by a command."""
    return Path(shutil.copytree(built, tmp_path / "work"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of hostile models beside bad files and things to pack."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    library = tmp_path / "library"
    build_model(library).replace(library / "model.distillgan")
    build_model(tmp_path, tensor="other\u202e.weight", name=f"other{SHOWN}").replace(
        tmp_path / "other.distillgan"
    )
    (library / FILE).write_bytes((tmp_path / "other.distillgan").read_bytes())
    with contextlib.suppress(OSError), open(os.fsencode(library) + b"/" + RAW_FILE, "wb") as file:
        file.write((library / "model.distillgan").read_bytes())  # macOS wants Unicode
    bad = library / "bad"
    bad.mkdir()
    for number, model in enumerate(bad_models()):
        (bad / f"{number}{FILE}").write_bytes(model.bytes())
    torch.save({f"w{BIDI}": torch.tensor([float("nan")])}, tmp_path / f"state{BIDI}.pt")
    torch.save(vocoder_state()["state_dict"], tmp_path / "vocoder.pt")
    return tmp_path


def build_model(folder: Path, *, tensor: str = "t", name: str = SHOWN) -> Path:
    """A model that is hostile wherever the format lets it be."""
    state = {f"{tensor}{BIDI}{UNSEEN}{MARKUP}{HTML}{FORMULA}": torch.ones(3)}
    about = fixed_metadata(
        name, description=f"{SHOWN}\n\t{SHOWN}", tags=[SHOWN, FORMULA], dataset_name=SHOWN,
        training_date=SHOWN, extra={ESCAPES: ESCAPES},
    )  # fmt: skip
    about.model_id = f"{SHOWN} {name}"
    sound = vocoder_state(
        type=SHOWN, config={ESCAPES: [ESCAPES, SHOWN]}, training_metadata={"training_date": ESCAPES}
    )
    config = {ESCAPES: ESCAPES, "sample_rate": ESCAPES}
    return save(
        folder, state, metadata=about, spectrogram_config=config, training_config=config, vocoder_state=sound
    )


def bad_models() -> Iterator[Model]:
    """Files whose faults are named with a string of their own."""
    escaped = json.dumps(ESCAPES + BIDI).encode()
    yield rewritten((b'"version":1', b'"version":' + escaped))
    yield rewritten((b'"version":1', b'"version":1,' + escaped + b":1"))
    yield rewritten((b'"batch_size":16', escaped + b":1e999"))
    yield rewritten((b'"batch_size":16', escaped + b":null," + escaped + b":null"))
    yield edited(lambda manifest: manifest["metadata"].update(name=ESCAPES))
    yield edited(lambda manifest: manifest.update({f"x{BIDI}": 1}))
    yield Model(vae=weights(Tensor(f"w{BIDI}\x1b[2J", "F32", (1,))))
    yield Model(
        vae=reworded(small(), (b'"dtype":"F32","shape":[3]', b'"dtype":' + escaped + b',"shape":[3]'))
    )
    yield Model(vae=weights(Tensor("w", "F32", (1,)), aliases={f"a{ESCAPES}": "w"}))
    assert header_text(small())


def test_every_command_is_tried() -> None:
    assert set(commands()) - ELSEWHERE == COMMANDS.keys()


@pytest.mark.parametrize("arguments", CASES)
def test_what_is_piped_is_text(folder: Path, arguments: list[str]) -> None:
    done = run(folder, arguments)
    assert_text(done.stdout.decode())
    assert_text(done.stderr.decode())


@pytest.mark.parametrize("arguments", CASES)
def test_json_is_ascii_and_gives_the_strings_back(folder: Path, arguments: list[str]) -> None:
    if "nowhere" in arguments[-1] or "--values" in arguments:
        pytest.skip("says the same without --json, and importing torch takes a second")
    if arguments[0] == "catalog" and arguments[1] == "export":
        arguments = [argument for argument in arguments if argument not in ("--format", "csv")]
    elif "--jsonl" not in arguments:
        arguments = [*arguments, "--json"]
    done = run(folder, arguments)
    assert done.stdout.isascii()
    assert_text(done.stdout.decode())
    assert_text(done.stderr.decode())
    for document in done.stdout.splitlines() if "--jsonl" in arguments else [done.stdout]:
        assert not document or strings(json.loads(document)) is not None
    if done.returncode == 0 and arguments[:2] in (
        ["model", "list"],
        ["model", "info"],
        ["catalog", "export"],
    ):
        assert ESCAPES in arguments or SHOWN in strings(json.loads(done.stdout))


@needs_pty
@pytest.mark.parametrize("arguments", CASES)
def test_what_a_terminal_gets_is_text(folder: Path, arguments: list[str]) -> None:
    if arguments[0] in ("pack", "attach") or "--values" in arguments:
        pytest.skip("piped here, in a terminal under stress: importing torch takes a second")
    assert_text(in_terminal(folder, arguments, term="dumb"))


@needs_pty
@pytest.mark.stress
@pytest.mark.parametrize("arguments", CASES)
@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
def test_what_any_terminal_gets_is_text(folder: Path, arguments: list[str], term: str) -> None:
    assert_text(without_style(in_terminal(folder, arguments, term=term)))


@needs_pty
@pytest.mark.parametrize("arguments", TABLES)
def test_a_table_on_a_terminal_has_styles_of_its_own_only(folder: Path, arguments: list[str]) -> None:
    shown = in_terminal(folder, arguments, term="xterm-256color")
    assert_text(without_style(shown))
    assert "\x1b[31m" not in shown
    assert "bold red" in re.sub(r"[\s\x1b\[\]0-9;m]+", " ", shown)  # markup came out as letters


def test_cells_of_a_csv_export_are_no_formulas(folder: Path) -> None:
    text = run(folder, ["catalog", "export", "--library", "LIBRARY", "--format", "csv"]).stdout.decode()
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [
        cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and not is_number(cell)
    ]


def test_what_a_notebook_shows_is_text_and_escaped(folder: Path) -> None:
    path = folder / "library" / "model.distillgan"
    loaded, library = load_model(path), ModelLibrary(folder / "library")
    with Container.open(path) as container:
        for text in map(repr, (container, loaded, loaded.state_dict, library)):
            assert_text(text)
        for made in (container, loaded):
            html = made._repr_html_()
            assert_text(html)
            assert {"img", "script"}.isdisjoint(tags_in(html))


def test_an_error_says_its_sentence_without_control_of_the_terminal(folder: Path) -> None:
    for path in (folder / "library" / "bad").iterdir():
        done = run(folder, ["verify", os.fspath(path)])
        assert done.returncode == 1
        assert_text(done.stdout.decode() + done.stderr.decode())


def commands() -> Iterator[str]:
    """Every command of the group, by the words that call it."""
    from distillgan_cli.main import cli

    def walk(group: click.Group, words: tuple[str, ...]) -> Iterator[str]:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from walk(command, (*words, name))
            else:
                yield " ".join((*words, name))

    return walk(cli, ())


def run(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command with its output in pipes."""
    done = subprocess.run(
        argv(folder, arguments), env=surroundings(), capture_output=True, check=False, timeout=60
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def in_terminal(folder: Path, arguments: list[str], *, term: str) -> str:
    """What a command writes to a terminal, stdout and stderr together."""
    ours, theirs = os.openpty()
    environment = surroundings() | {"TERM": term}
    with subprocess.Popen(
        argv(folder, arguments), env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: read_terminal(ours), b""))
        os.close(ours)
        process.wait(60)
    assert b"Traceback" not in shown, shown.decode()
    return shown.decode().replace("\r\n", "\n")


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # Linux says EIO when the other side is closed
        return b""


def argv(folder: Path, arguments: list[str]) -> list[str]:
    names = {
        "MODEL": "library/model.distillgan", "OTHER": "other.distillgan", "BAD": "library/bad",
        "HOSTILE": f"library/{FILE}", "LIBRARY": "library", "OUT": f"out{BIDI}.distillgan",
        "STATE": f"state{BIDI}.pt", "VOCODER": "vocoder.pt",
    }  # fmt: skip
    given = [os.fspath(folder / names[word]) if word in names else word for word in arguments]
    return [sys.executable, "-m", "distillgan_cli", *given]


def surroundings() -> dict[str, str]:
    return environment() | {"COLUMNS": "200", "PYTHONWARNINGS": "default"}


def assert_text(text: str) -> None:
    """Nothing in it moves a cursor, turns direction or hides."""
    bad = {c for c in text if c not in "\t\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert not bad, f"{sorted(bad)} in {text[:2000]!r}"


def without_style(text: str) -> str:
    """Text without what rich sets by itself: colours and weights, and how its progress is redrawn."""
    return re.sub(r"\x1b\[(?:[0-9;]*m|\?25[lh]|1A|2K)|\r(?=\x1b\[)", "", text)


def strings(value: Any) -> list[str]:
    """Every string in a JSON document."""
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *strings(item))]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def tags_in(html: str) -> set[str]:
    """The names of all elements of some HTML."""
    found: set[str] = set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, _: Any) -> None:
            found.add(tag)

    Parser().feed(html)
    return found
