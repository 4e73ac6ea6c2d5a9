"""`distillgan model` and `distillgan catalog`: what they say, where, and with which exit code."""

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
from pathlib import Path

import pytest
from _library import TRAINING, write_model
from click.testing import CliRunner
from distillgan_cli.main import cli

from distillgan._index import INDEX_NAME
from distillgan.catalog import ModelLibrary
from distillgan.errors import LEGACY_REFERENCE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rain with everything, snow in a subfolder with next to nothing."""
    write_model(
        tmp_path / "rain.distillgan", "6f9d0c9e-1111", "Rain on tin", description="A\nroof", tags=["ambient"],
        dataset_name="field", dataset_file_count=41, dataset_total_duration_s=63.5, training_epochs=7,
        final_train_loss=4.5, final_val_loss=4.3868, has_analysis=True, n_active_components=8,
        vocoder={"type": "hifigan_v2", "training_metadata": TRAINING},
    )  # fmt: skip
    write_model(tmp_path / "sub" / "snow.distillgan", "77aa0000-2222", "Snow", save_date="2025-01-01")
    return tmp_path


def run(*arguments: object, **kwargs: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], **kwargs)
    return result.exit_code, result.stdout, result.stderr


def test_list_prints_tab_separated_lines_with_whole_ids_when_piped(folder: Path) -> None:
    code, out, err = run("model", "list", "--library", folder)
    assert (code, err) == (0, "")
    size = os.path.getsize(folder / "rain.distillgan") / 1000
    assert out.splitlines() == [
        "Name\tDataset\tEpochs\tVal loss\tVocoder\tSize\tSaved\tID",
        f"Rain on tin\tfield\t7\t4.3868\tHiFi-GAN (200ep)\t{size:.1f} kB\t2026-02-21\t6f9d0c9e-1111",
        out.splitlines()[2],
    ]
    assert out.splitlines()[2].split("\t")[:5] == ["Snow", "", "", "", ""]


def test_list_as_json_gives_entries_and_problems(folder: Path) -> None:
    (folder / "bad.distillgan").write_bytes(b"")
    code, out, err = run("model", "list", "--json", "--library", folder)
    answer = json.loads(out)
    assert code == 0 and out.isascii()
    assert [entry["name"] for entry in answer["models"]] == ["Rain on tin", "Snow"]
    assert answer["models"][0]["vocoder"]["epochs"] == 200 and "vocoder" not in answer["models"][1]
    assert answer["models"][1]["training_epochs"] is None
    assert [problem["code"] for problem in answer["problems"]] == ["zip.truncated"]
    assert err.startswith("bad.distillgan: zip.truncated: ")


def test_list_names_bad_missing_and_duplicate_files_on_stderr_and_exits_0(folder: Path) -> None:
    ModelLibrary(folder)
    (folder / "sub" / "snow.distillgan").unlink()
    shutil.copy(folder / "rain.distillgan", folder / "copy.distillgan")
    (folder / "bad.distillgan").write_bytes(b"GGUF")
    code, out, err = run("model", "list", "--library", folder)
    assert code == 0
    assert len(out.splitlines()) == 4 and "\tmissing\t" in out
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "bad.distillgan",
        "sub/snow.distillgan",
        "copy.distillgan",
        "rain.distillgan",
    ]
    assert "catalog repair" in lines[1] and "--new-id" in lines[2]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--sort", "name"], ["Rain on tin", "Snow"]),
        (["--sort", "name", "--reverse"], ["Snow", "Rain on tin"]),
        (["--reverse"], ["Snow", "Rain on tin"]),
        (["--sort", "epochs", "--reverse"], ["Rain on tin", "Snow"]),
        (["--search", "ROOF"], ["Rain on tin"]),
        (["--tag", "AMBIENT", "--tag", "x"], ["Rain on tin"]),
        (["--search", "nothing"], []),
    ],
)
def test_list_and_export_sort_and_choose(folder: Path, options: list[str], names: list[str]) -> None:
    listed = json.loads(run("model", "list", "--json", "--library", folder, *options)[1])["models"]
    exported = json.loads(run("catalog", "export", "--library", folder, *options)[1])
    assert listed == exported
    assert [entry["name"] for entry in listed] == names


@pytest.mark.parametrize("command", [["model", "list"], ["model", "info", "x"], ["catalog", "repair"]])
def test_a_library_that_was_named_must_exist(tmp_path: Path, command: list[str]) -> None:
    code, out, err = run(*command, "--library", tmp_path / "none")
    assert (code, out) == (2, "") and "none: No such file or directory" in err


def test_the_systems_own_library_may_not_exist_yet(tmp_path: Path) -> None:
    environment = {"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    result = CliRunner().invoke(
        cli, ["model", "list", "--json"], env=environment | {"DISTILLGAN_LIBRARY": None}
    )
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"models": [], "problems": []})
    assert list(tmp_path.iterdir()) == []


def test_the_library_can_be_named_in_the_environment(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["model", "info", "Snow"], env={"DISTILLGAN_LIBRARY": str(folder)})
    assert result.exit_code == 0


@pytest.mark.parametrize("ref", ["Rain on tin", "6f9d0c9e-1111", "6f9"])
def test_info_tells_what_is_known(folder: Path, ref: str) -> None:
    code, out, err = run("model", "info", ref, "--library", folder)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "Rain on tin"
    assert "HiFi-GAN (200 epochs, loss 0.0342, trained 2026-02-21)" in out
    assert "7 epochs, train loss 4.5000, validation loss 4.3868" in out
    assert "field: 41 files, 63.5 s" in out


def test_info_says_that_there_is_no_vocoder(folder: Path) -> None:
    assert "vocoder      (none)\n" in run("model", "info", "Snow", "--library", folder)[1]


def test_info_as_json_is_the_entry_and_its_path(folder: Path) -> None:
    answer = json.loads(run("model", "info", "Snow", "--json", "--library", folder)[1])
    assert answer["path"] == str(folder / "sub" / "snow.distillgan")
    assert (answer["model_id"], answer["state"]) == ("77aa0000-2222", "ok")


@pytest.mark.parametrize("command", [["model", "info"], ["model", "delete", "--force"]])
def test_a_reference_that_cannot_be_resolved_is_misuse(folder: Path, command: list[str]) -> None:
    write_model(folder / "r2.distillgan", "6f9dffff-3333", "Rain")
    cases = {
        "Sno": "Model not found: Sno. Did you mean 'Snow'?\n",
        "6f": "Ambiguous model reference '6f'. Matches: 'Rain', 'Rain on tin'. "
        "Use the model ID to be specific.\n",
    }
    for ref, text in cases.items():
        assert run(*command, ref, "--library", folder) == (2, "", text)
    assert run(*command, "rain.distill", "--library", folder) == (1, "", LEGACY_REFERENCE + "\n")
    assert ModelLibrary(folder).count() == 3


def test_nothing_is_deleted_without_a_terminal_or_force(folder: Path) -> None:
    code, out, err = run("model", "delete", "Snow", "--library", folder, input="y\n")
    assert (code, out) == (1, "") and "--force" in err
    assert (folder / "sub" / "snow.distillgan").exists()


def test_force_deletes_the_file(folder: Path) -> None:
    path = folder / "sub" / "snow.distillgan"
    assert run("model", "delete", "Snow", "--force", "--library", folder) == (0, f"{path}: deleted\n", "")
    assert not path.exists()
    code, out, _ = run("model", "delete", "6f9d", "--force", "--json", "--library", folder)
    assert code == 0 and json.loads(out) == {
        "deleted": True,
        "model_id": "6f9d0c9e-1111",
        "path": str(folder / "rain.distillgan"),
    }


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_deleting_asks_on_a_terminal(folder: Path, answer: str, code: int) -> None:
    found, screen = on_a_terminal(["model", "delete", "Snow", "--library", str(folder)], f"{answer}\n")
    assert found == code
    assert "Delete 'Snow'" in screen
    assert (folder / "sub" / "snow.distillgan").exists() == bool(code)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_table_fits_80_columns_and_shows_eight_characters_of_the_id(folder: Path) -> None:
    write_model(
        folder / "long.distillgan", "88bb-4444-5555", "[red]A name " * 8, dataset_name="a dataset " * 5
    )
    code, screen = on_a_terminal(["model", "list", "--library", str(folder)])
    assert code == 0
    assert max(map(len, screen.splitlines())) <= 80
    assert "6f9d0c9e" in screen and "6f9d0c9e-" not in screen
    assert "HiFi-GAN" in screen and "(200ep)" in screen and "[red]" in screen


def environment() -> dict[str, str]:
    root = Path(__file__).parents[1]
    path = (str(root), str(root / "cli"), os.environ.get("PYTHONPATH", ""))
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "COLUMNS": "80", "TERM": "xterm"}


def on_a_terminal(arguments: list[str], typed: str = "") -> tuple[int, str]:
    """Run the command line on a pseudo-terminal of 80 columns; give its exit code and what was shown."""
    import pty

    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from distillgan_cli.main import main; main()", *arguments],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment(),
    )
    os.close(inside)
    os.write(terminal, typed.encode())
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says at the end
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_missing_model_cannot_be_deleted_and_the_cure_is_named(folder: Path) -> None:
    ModelLibrary(folder)
    (folder / "sub" / "snow.distillgan").unlink()
    code, _, err = run("model", "delete", "Snow", "--force", "--library", folder)
    assert code == 1 and "catalog repair" in err


def test_scan_prints_a_line_for_each_model_and_a_count(folder: Path) -> None:
    (folder / "bad.distillgan").write_bytes(b"")
    code, out, err = run("catalog", "scan", folder)
    assert code == 0
    assert out == (
        "rain.distillgan\tRain on tin\t6f9d0c9e-1111\tok\n"
        "sub/snow.distillgan\tSnow\t77aa0000-2222\tok\n"
        "2 ok, 1 unreadable\n"
    )
    assert err.startswith("bad.distillgan: zip.truncated")
    assert (folder / INDEX_NAME).exists()


def test_scan_as_json_tells_what_changed_since_the_last_one(folder: Path) -> None:
    assert json.loads(run("catalog", "scan", folder, "--json")[1])["added"] == [
        "rain.distillgan",
        "sub/snow.distillgan",
    ]
    (folder / "rain.distillgan").rename(folder / "tin.distillgan")
    answer = json.loads(run("catalog", "scan", folder, "--json")[1])
    assert answer["moved"] == [["rain.distillgan", "tin.distillgan"]]
    assert answer["added"] == answer["missing"] == answer["problems"] == []


def test_scan_as_jsonl_gives_an_object_for_each_file(folder: Path) -> None:
    ModelLibrary(folder)
    (folder / "sub" / "snow.distillgan").unlink()
    (folder / "bad.distillgan").write_bytes(b"")
    lines = [json.loads(line) for line in run("catalog", "scan", folder, "--jsonl")[1].splitlines()]
    assert [(line.get("file_path"), line.get("state"), line.get("code")) for line in lines] == [
        ("rain.distillgan", "ok", None),
        (None, None, "zip.truncated"),
        ("sub/snow.distillgan", "missing", None),
    ]


def test_scan_of_a_folder_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    assert run("catalog", "scan", tmp_path / "none")[0] == 2


def test_repair_counts_what_it_removed_and_what_was_added_since_the_index_was_written(folder: Path) -> None:
    ModelLibrary(folder)
    (folder / "rain.distillgan").unlink()
    write_model(folder / "new.distillgan", "id-new")
    assert run("catalog", "repair", "--library", folder) == (0, "1 removed, 1 added\n", "")
    answer = json.loads(run("catalog", "repair", "--json", "--library", folder)[1])
    assert answer == {"removed": 0, "added": 0}


def test_csv_has_a_header_and_defuses_formulas(folder: Path) -> None:
    write_model(
        folder / "evil.distillgan", "id-evil", '=HYPERLINK("x")', description="\t=1+1", tags=["-a", "b"],
        dataset_name="@SUM\u202e", final_val_loss=-1.5, training_date="+1",
    )  # fmt: skip
    code, out, _ = run("catalog", "export", "--format", "csv", "--sort", "name", "--library", folder)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 3
    evil = rows[0]
    assert (evil["name"], evil["description"], evil["tags"], evil["dataset_name"], evil["training_date"]) == (
        "'=HYPERLINK(\"x\")", "'\t=1+1", "'-a,b", "'@SUM\\u{202e}", "'+1",
    )  # fmt: skip
    assert (evil["final_val_loss"], evil["training_epochs"], evil["has_analysis"]) == ("-1.5", "", "false")
    rain = rows[1]
    assert rain["description"] == "A\nroof"
    assert (rain["vocoder_type"], rain["vocoder_epochs"], rain["vocoder_final_loss"]) == (
        "hifigan_v2",
        "200",
        "0.0342",
    )


def test_what_a_file_says_reaches_no_terminal_as_it_is(folder: Path) -> None:
    write_model(folder / "evil\u202e.distillgan", "id-\u200bevil", "a\u202eb", tags=["\u2066"])
    for command in (["model", "list"], ["model", "info", "a\u202eb"], ["catalog", "scan", str(folder)]):
        options = [] if "scan" in command else ["--library", folder]
        code, out, err = run(*command, *options)
        assert code == 0 and "\\u{202e}" in out
        assert not set("\u202e\u200b\u2066") & set(out + err)


def test_the_shell_completes_names_and_begun_ids(folder: Path) -> None:
    def complete(command: str, incomplete: str) -> list[str]:
        words = f"distillgan {command} --library {folder} {incomplete}"
        variables = {
            "_DISTILLGAN_COMPLETE": "zsh_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - bool(incomplete)),
        }
        result = CliRunner().invoke(cli, env=variables, prog_name="distillgan")
        return result.stdout.splitlines()[1::3]

    assert complete("model info", "") == ["Rain on tin", "Snow"]
    assert complete("model delete", "Ra") == ["Rain on tin"]
    assert complete("model info", "77") == ["77aa0000-2222"]
    assert complete("model info --library /nowhere/at/all", "Ra") in ([], ["Rain on tin"])


@pytest.mark.parametrize(
    "command",
    [["model"], ["model", "list"], ["model", "info"], ["model", "delete"], ["catalog"], ["catalog", "scan"],
     ["catalog", "repair"], ["catalog", "export"]],
)  # fmt: skip
def test_every_command_has_a_help_that_fits_the_terminal(command: list[str]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    if len(command) == 2 and command[1] != "export":
        assert "--json gives" in " ".join(out.split())


def test_listing_does_not_import_torch_or_rich(folder: Path) -> None:
    script = (
        "import sys; from distillgan_cli.main import cli\n"
        "cli.main(['model', 'list', '--library', sys.argv[1]], standalone_mode=False)\n"
        "print({'torch', 'numpy', 'rich'} & set(sys.modules))"
    )
    ModelLibrary(folder)
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.splitlines()[-1] == "set()"
