"""The commands that make, read and check files."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from helpers import (
    CHECKPOINT,
    FIXTURES,
    GENERATOR,
    GENERATOR_CONFIG,
    V1_FILE,
    V1_REFERENCE,
    command,
    distillgan,
    environment,
    flip,
    names_in,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch_helpers import fixed_metadata, hifigan_state, raw, save, small_state, vocoder_state

from distillgan import Container, read_manifest, verify

HOSTILE = "<b>[red]x[/red]</b>\u202eevil\u200b"
COMMANDS = ("pack", "inspect", "verify", "unpack", "compress", "decompress")
VALID = FIXTURES / "valid"


def checkpoint(path: Path, **more: Any) -> Path:
    torch.save(
        {"model_state_dict": small_state(), "epoch": 2, "train_loss": 0.5, "val_loss": 0.25, **more}, path
    )
    return path


def generator(path: Path, mels: int = 4) -> Path:
    torch.save({"generator": hifigan_state(mels)}, path)
    return path


def arguments_of(name: str, path: Any, folder: Path) -> list[Any]:
    return [name, path, *(["-d", folder / "out"] if name == "unpack" else [])]


def ascii_json(text: str) -> Any:
    assert text.isascii()
    assert "\x7f" not in text
    return json.loads(text)


@pytest.mark.parametrize("what", ["pipe", "folder"])
@pytest.mark.parametrize("command", ["pack", "compress"])
def test_what_is_no_regular_file_is_never_replaced(command: str, what: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    os.mkfifo(target) if what == "pipe" else target.mkdir()
    source = checkpoint(tmp_path / "a.pt") if command == "pack" else VALID / "full.distillgan"
    result = distillgan(command, source, "-o", target, "--force")
    assert result.exit_code != 0
    assert str(target) in result.stderr
    assert target.is_fifo() if what == "pipe" else target.is_dir()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("command", ["pack", "compress", "decompress"])
def test_the_file_that_is_read_is_not_written_over(command: str, tmp_path: Path) -> None:
    path = tmp_path / "a.distillgan"
    path.write_bytes((VALID / "full.distillgan").read_bytes())
    if command == "decompress":
        assert distillgan("compress", path).exit_code == 0
        path = tmp_path / "a.distillgan.zst"
    before = path.read_bytes()
    result = distillgan(command, path, "-o", path, "--force")
    assert result.exit_code == 2
    assert "is the file that is read" in result.stderr
    assert path.read_bytes() == before


def test_options_of_a_vocoder_need_a_vocoder(tmp_path: Path) -> None:
    result = distillgan("pack", checkpoint(tmp_path / "a.pt"), "--vocoder-config", "none.json")
    assert (result.exit_code, list(tmp_path.glob("*.distillgan"))) == (2, [])
    assert "--vocoder-config needs --vocoder" in result.stderr


def test_a_checkpoint_whose_bytes_do_not_fit_their_crc_is_packed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint(tmp_path / "a.pt", note=torch.full((1000,), 7.5))
    data = path.read_bytes()
    at = data.index(struct.pack("<f", 7.5) * 10)
    path.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    assert distillgan("pack", path, "-o", tmp_path / "a.distillgan").exit_code == 0
    assert "does not fit its CRC-32" in caplog.text
    assert str(path) in caplog.text


def test_the_size_of_a_transport_file_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.distillgan"
    path.write_bytes((VALID / "full.distillgan").read_bytes())
    assert distillgan("compress", path).exit_code == 0
    shown = distillgan("inspect", tmp_path / "a.distillgan.zst").stdout
    assert ", unpacked " in shown


@pytest.mark.parametrize("columns", ["1", "12", "0", "-5", "wide"])
def test_a_narrow_terminal_gets_an_answer(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    result = distillgan("inspect", VALID / "full.distillgan")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = distillgan(name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_a_path_that_is_not_there_is_misuse_and_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "none.distillgan"
    result = distillgan(*arguments_of(name, path, tmp_path))
    assert result.exit_code == 2
    assert result.stderr == f"Model file not found: {path}\n"
    assert result.stdout in ("", "[]\n")


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("exists", [True, False])
def test_a_reference_that_ends_in_distill_gets_exactly_the_sentence(
    name: str, exists: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.distill"
    if exists:
        path.write_bytes(b"x")
    result = distillgan(*arguments_of(name, path, tmp_path))
    assert result.exit_code == 1
    assert result.stderr == V1_REFERENCE + "\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_v1_file_under_another_name_gets_exactly_the_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.distillgan.zst" if name == "decompress" else "a.distillgan")
    torch.save({"format": "distill_model", "version": 1, "model_state_dict": {}}, path)
    result = distillgan(*arguments_of(name, path, tmp_path))
    assert result.exit_code == 1
    assert V1_FILE in result.output
    assert result.output.count("\n") <= 2


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device", "link to a pipe"])
def test_what_is_no_file_is_a_sentence_and_no_hang(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.distillgan"
    os.mkfifo(tmp_path / "fifo")
    if kind == "pipe":
        path = tmp_path / "fifo"
    elif kind == "folder":
        if name == "verify":
            return
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "fifo")
    result = distillgan(
        *arguments_of(name, path, tmp_path), *(["-o", tmp_path / "o"] if "press" in name else [])
    )
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output
    assert result.stderr or name == "verify"
    assert len((result.stderr or result.stdout).splitlines()) <= 4
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_is_wrong_is_its_path_its_code_and_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.distillgan.zst" if name == "decompress" else "a.distillgan")
    path.write_bytes((VALID / "plain.distillgan").read_bytes()[:-5])
    result = distillgan(*arguments_of(name, path, tmp_path))
    assert result.exit_code == 1
    assert f"{path}: zip.truncated: " in (result.stdout if name == "verify" else result.stderr)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_misuse(name: str) -> None:
    assert distillgan(name, "--nonsense").exit_code == 2
    assert distillgan(name).exit_code == 2


def test_packing_the_real_pair_says_where_it_is_and_that_it_matches(real_pair: Path, tmp_path: Path) -> None:
    shutil.copy(GENERATOR, tmp_path)
    shutil.copy(GENERATOR_CONFIG, tmp_path / "config.json")
    out = tmp_path / "a.distillgan"
    result = distillgan(
        "pack", CHECKPOINT, "--vocoder", tmp_path / GENERATOR.name, "-o", out, "--name", "Rain"
    )
    assert result.exit_code == 0
    assert result.stdout.startswith(str(out))
    assert "config.json" in result.stderr
    assert verify(out) == []
    shown = distillgan("inspect", out)
    assert "shapes and rates match" in shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("rain.pt", "rain"), ("runs/tin roof/checkpoint_epoch0006.pt", "tin roof"),
        ("runs/tin/checkpoints/checkpoint_epoch0006.pt", "tin"), ("tin/best.pt", "tin"),
        ("tin/LAST.pt", "tin"),
        ("tin/checkpoints/best.pt", "tin"), ("tin/bestest.pt", "bestest"), ("tin/model.v2.pt", "model.v2"),
    ],
)  # fmt: skip
def test_a_model_is_named_after_its_file_or_its_folder(path: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    result = distillgan("pack", checkpoint(file), "--library", tmp_path / "library", "--json")
    assert result.exit_code == 0
    (answer,) = ascii_json(result.stdout)
    assert answer["name"] == name
    assert read_manifest(answer["path"]).metadata.name == name


def test_without_a_place_to_write_a_model_lands_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "Tin Roof.pt")
    assert distillgan("pack", "Tin Roof.pt").exit_code == 0
    assert names_in(tmp_path) == ["Tin Roof.pt", "tin_roof.distillgan"]
    again = distillgan("pack", "Tin Roof.pt")
    assert again.exit_code == 2
    assert "already exists" in again.stderr


def test_an_existing_output_is_refused_and_replaced_by_force(tmp_path: Path) -> None:
    out = tmp_path / "a.distillgan"
    out.write_bytes(b"old")
    source = checkpoint(tmp_path / "a.pt")
    result = distillgan("pack", source, "-o", out)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert out.read_bytes() == b"old"
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"not a checkpoint")
    assert distillgan("pack", bad, "-o", out, "--force").exit_code == 1
    assert out.read_bytes() == b"old"
    assert distillgan("pack", source, "-o", out, "--force").exit_code == 0
    assert verify(out) == []
    assert names_in(tmp_path) == ["a.distillgan", "a.pt", "bad.pt"]


@pytest.mark.parametrize("kind", ["dangling link", "folder"])
def test_an_output_that_is_a_link_or_a_folder_is_refused(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out.distillgan"
    out.mkdir() if kind == "folder" else out.symlink_to(tmp_path / "nowhere")
    result = distillgan("pack", checkpoint(tmp_path / "a.pt"), "-o", out)
    assert result.exit_code == 2
    assert not (tmp_path / "nowhere").exists()


def test_an_output_in_a_folder_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    result = distillgan("pack", checkpoint(tmp_path / "a.pt"), "-o", tmp_path / "none" / "a.distillgan")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert ".tmp" not in result.stderr


def test_an_output_that_would_never_be_read_is_refused(tmp_path: Path) -> None:
    assert distillgan("pack", checkpoint(tmp_path / "a.pt"), "-o", tmp_path / "a.distill").exit_code == 2


def test_what_the_caller_says_wins_over_the_checkpoint(tmp_path: Path) -> None:
    source, out = checkpoint(tmp_path / "a.pt"), tmp_path / "a.distillgan"
    said = {
        "training_epochs": 99,
        "dataset_name": "field",
        "name": "Json",
        "tags": ["json"],
        "mine": {"a": [1]},
    }
    options = ["--metadata", json.dumps(said), "--name", "Option", "--tag", "one", "--tag", "two"]
    assert distillgan("pack", source, "-o", out, *options).exit_code == 0
    found = read_manifest(out).metadata
    assert (found.training_epochs, found.final_train_loss, found.dataset_name) == (99, 0.5, "field")
    assert (found.name, found.tags, found.extra) == ("Option", ["one", "two"], {"mine": {"a": [1]}})


def test_epochs_and_losses_come_from_the_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "a.distillgan"
    distillgan("pack", checkpoint(tmp_path / "a.pt", val_loss=float("inf")), "-o", out)
    found = read_manifest(out).metadata
    assert (found.training_epochs, found.final_train_loss, found.final_val_loss) == (3, 0.5, None)


def test_an_infinite_loss_is_one_warning_on_stderr(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a.pt", val_loss=float("inf"))
    result = distillgan("pack", source, "-o", tmp_path / "a.distillgan", "--json")
    assert result.exit_code == 0
    (answer,) = ascii_json(result.stdout)
    assert len(answer["warnings"]) == 1
    assert len(result.stderr.splitlines()) == 1
    assert "warning" in result.stderr


@pytest.mark.parametrize(
    "text", ["{", "[]", "nonexistent.json", '{"tags": "x"}', '{"name": 3}', '{"training_epochs": -1}',
             '{"x": 1e999}', "{" * 100_000, '{"name": "a\\u001bb"}'],
    ids=lambda t: t[:20],
)  # fmt: skip
def test_metadata_that_cannot_be_stored_is_refused(text: str, tmp_path: Path) -> None:
    result = distillgan("pack", checkpoint(tmp_path / "a.pt"), "-o", tmp_path / "o", "--metadata", text)
    assert result.exit_code in (1, 2)
    assert result.stderr
    assert names_in(tmp_path) == ["a.pt"]


def test_a_mismatch_stops_with_every_reason_and_passes_when_allowed(tmp_path: Path) -> None:
    source, out = (
        checkpoint(tmp_path / "a.pt", spectrogram_config={"sample_rate": 8000, "n_mels": 4}),
        tmp_path / "o",
    )
    vocoder = ["--vocoder", generator(tmp_path / "g_1", 80), "--vocoder-config", '{"sampling_rate": 44100}']
    result = distillgan("pack", source, "-o", out, *vocoder)
    assert result.exit_code == 1
    for word in ("80", "4", "44100", "8000", "--allow-mismatch", str(source)):
        assert word in result.stderr
    assert result.stdout == ""
    assert not out.exists()
    allowed = distillgan("pack", source, "-o", out, *vocoder, "--allow-mismatch")
    assert allowed.exit_code == 0
    assert "44100" in allowed.stderr
    assert "44100" in distillgan("inspect", out).stdout
    checked = distillgan("verify", out)
    assert checked.exit_code == 0
    assert "44100" in checked.output


def test_a_vocoders_training_is_what_the_caller_says(tmp_path: Path) -> None:
    out = tmp_path / "o"
    options = [
        "--vocoder-epochs",
        200,
        "--vocoder-loss",
        0.0342,
        "--vocoder-date",
        "2026-02-21",
        "--vocoder-type",
        "X",
    ]
    vocoder = ["--vocoder", generator(tmp_path / "g_1")]
    assert distillgan("pack", checkpoint(tmp_path / "a.pt"), "-o", out, *vocoder, *options).exit_code == 0
    found = read_manifest(out).vocoder
    assert found is not None
    assert found.type == "X"
    assert found.training_metadata == {"epochs": 200, "final_loss": 0.0342, "training_date": "2026-02-21"}


@pytest.mark.parametrize(
    "option", [["--vocoder-epochs", "-1"], ["--vocoder-date", "soon"], ["--vocoder-loss", "x"]]
)
def test_a_vocoders_training_that_is_none_is_misuse(option: list[str], tmp_path: Path) -> None:
    assert distillgan("pack", checkpoint(tmp_path / "a.pt"), *option).exit_code == 2


def test_a_vocoder_loss_that_is_no_number_is_stored_as_unknown(tmp_path: Path) -> None:
    options = ["--vocoder", generator(tmp_path / "g_1"), "--vocoder-loss", "nan", "-o", tmp_path / "o"]
    assert distillgan("pack", checkpoint(tmp_path / "a.pt"), *options).exit_code == 0
    assert read_manifest(tmp_path / "o").vocoder.training_metadata == {"final_loss": None}  # type: ignore[union-attr]


def test_a_gan_training_file_is_refused_by_the_name_to_give(tmp_path: Path) -> None:
    path = tmp_path / "do_00000006"
    torch.save({"mpd": {}, "msd": {}, "optim_g": {}, "optim_d": {}}, path)
    result = distillgan("pack", checkpoint(tmp_path / "a.pt"), "--vocoder", path, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "g_00000006" in result.stderr


def test_plain_safetensors_and_containers_are_packed_too(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "a.safetensors")
    first, second = tmp_path / "first.distillgan", tmp_path / "second.distillgan"
    assert distillgan("pack", tmp_path / "a.safetensors", "-o", first, "--tag", "x").exit_code == 0
    assert distillgan("pack", first, "-o", second).exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    assert distillgan("pack", first, "-o", second, "--force", "--name", "New").exit_code == 0
    assert read_manifest(second).metadata == dataclasses.replace(read_manifest(first).metadata, name="New")


def test_a_damaged_container_is_not_packed_again(pair: Path, tmp_path: Path) -> None:
    with Container.open(pair) as container:
        flip(pair, container.data_offset("vae") + 1000)
    result = distillgan("pack", pair, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "digest.tensor" in result.stderr
    assert not (tmp_path / "o").exists()


def test_one_bad_checkpoint_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"x")
    paths = [
        checkpoint(tmp_path / "a.pt"),
        tmp_path / "bad.pt",
        tmp_path / "none.pt",
        checkpoint(tmp_path / "b.pt"),
    ]
    result = distillgan("pack", *paths, "--library", tmp_path / "out", "--json")
    assert result.exit_code == 2
    assert [answer["name"] for answer in ascii_json(result.stdout)] == ["a", "b"]
    assert len(result.stderr.splitlines()) == 2
    assert names_in(tmp_path / "out") == ["a.distillgan", "b.distillgan"]


def test_an_output_for_two_checkpoints_is_misuse(tmp_path: Path) -> None:
    assert distillgan("pack", "a.pt", "b.pt", "-o", tmp_path / "o").exit_code == 2
    assert distillgan("pack", "a.pt", "-o", tmp_path / "o", "--library", tmp_path).exit_code == 2


def test_a_preview_is_packed_and_shown(tmp_path: Path) -> None:
    with Container.open(VALID / "preview.distillgan") as container:
        (tmp_path / "a.flac").write_bytes(container.read_entry("preview.flac") or b"")
    out = tmp_path / "o"
    result = distillgan("pack", checkpoint(tmp_path / "a.pt"), "-o", out, "--preview", tmp_path / "a.flac")
    assert result.exit_code == 0, result.stderr
    assert verify(out) == []
    assert "preview" in distillgan("inspect", out).stdout


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    result = distillgan("pack", checkpoint(tmp_path / "a.pt", x=Evil()), "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert f"{os.name}.mkdir" in result.stderr
    assert names_in(tmp_path) == ["a.pt"]


def test_inspect_fits_eighty_columns_and_says_everything(real_pair: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(real_pair.parent)
    result = distillgan("inspect", real_pair.name)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    words = (
        "HiFi-GAN (200 epochs, loss 0.0342)",
        "conv_vae",
        "latent size 8",
        "7 epochs",
        "48000",
        "none",
        "blake3",
    )
    for word in words:
        assert word in result.stdout


def test_inspect_lists_tensors_and_ties(tmp_path: Path) -> None:
    state = small_state()
    state["z"] = state["conv.weight"]
    path = save(tmp_path, state)
    lines = distillgan("inspect", path, "--tensors").stdout.splitlines()
    assert "conv.weight\tF32\t4×4\t64 B" in lines
    assert "z = conv.weight\tF32\t4×4\t64 B" in lines


def test_inspect_answers_in_json(real_pair: Path) -> None:
    answer = ascii_json(distillgan("inspect", real_pair, "--tensors", "--json").stdout)
    assert set(answer) == {"path", "size", "blake3", "manifest", "entries", "pairing", "tensors"}
    assert answer["manifest"]["vae"]["latent_dim"] == 8
    assert len(answer["tensors"]["vae"]) == 57
    assert answer["size"] == real_pair.stat().st_size


def test_inspect_shows_an_unchecked_signature(tmp_path: Path) -> None:
    result = distillgan("inspect", VALID / "signed.distillgan")
    assert "unchecked" in result.stdout
    assert "SHA256:" in result.stdout
    answer = ascii_json(distillgan("inspect", VALID / "signed.distillgan", "--json").stdout)
    assert answer["signature"]["checked"] is False


@pytest.mark.parametrize("path", sorted(VALID.glob("*.distillgan*")), ids=lambda p: p.name)
def test_every_valid_vector_is_shown_and_intact(path: Path) -> None:
    for options in ([], ["--json"], ["--tensors"], ["--tensors", "--json"]):
        result = distillgan("inspect", path, *options)
        assert result.exit_code == 0
        assert result.stdout
    assert distillgan("verify", path).exit_code == 0


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A model all of whose texts are hostile, and its file's name too."""
    metadata = fixed_metadata(HOSTILE, description=HOSTILE + "\n[bold]", tags=[HOSTILE], dataset_name=HOSTILE)
    metadata.extra = {HOSTILE: HOSTILE, "deep": {"\x1b[2J": "\x1b[31m"}}
    state = {HOSTILE: torch.ones(2)}
    vocoder = vocoder_state(type=HOSTILE, training_metadata={"epochs": HOSTILE, "final_loss": "\x1b[31m"})
    path = save(
        tmp_path, state, metadata=metadata, vocoder_state=vocoder, spectrogram_config={HOSTILE: "\x1b[31m"}
    )
    return path.rename(tmp_path / "[red]\x1b[31m\u202e.distillgan")


def assert_text(shown: str) -> None:
    assert not set(shown) & set("\x1b\u202e\u200b\x07")
    assert "[red]x[/red]" in shown


@pytest.mark.parametrize("options", [["inspect"], ["inspect", "--tensors"]], ids=" ".join)
def test_hostile_texts_come_out_as_text_when_piped(options: list[str], hostile: Path) -> None:
    result = distillgan(*options, hostile)
    assert result.exit_code == 0
    assert_text(result.stdout)
    assert "\\u{202e}" in result.stdout
    ascii_json(distillgan(*options, hostile, "--json").stdout)


def in_terminal(*arguments: object) -> str:
    """What a command writes to a terminal of 80 columns."""
    main, child = pty.openpty()
    argv = [sys.executable, "-m", "distillgan_cli", *map(str, arguments)]
    settings = environment() | {"TERM": "xterm-256color", "COLUMNS": "80"}
    with subprocess.Popen(argv, stdin=child, stdout=child, stderr=child, env=settings) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                data = os.read(main, 65536)
            except OSError:  # the terminal is gone with its process
                break
            if not data:
                break
            shown += data
        process.wait(50)
    os.close(main)
    return shown.decode()


def test_hostile_texts_come_out_as_text_on_a_terminal(hostile: Path) -> None:
    import re

    shown = in_terminal("inspect", "--tensors", hostile)
    assert_text(re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", ""))
    assert "\x1b[2J" not in shown
    assert "\x1b[31m" not in shown


def test_hostile_names_come_out_as_text_in_complaints(tmp_path: Path) -> None:
    path = tmp_path / "[red]\x1b[31m\u202e.distillgan"
    for name in COMMANDS:
        result = distillgan(*arguments_of(name, path, tmp_path))
        assert result.exit_code == 2
        assert not set(result.output) & set("\x1b\u202e")
        assert "[red]\\u{1b}[31m\\u{202e}" in result.stderr


def test_a_name_that_is_no_unicode_is_handled(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.distillgan"
    shutil.copy(VALID / "plain.distillgan", path)
    result = distillgan("inspect", os.fsdecode(path))
    assert result.exit_code == 0
    ascii_json(distillgan("inspect", os.fsdecode(path), "--json").stdout)
    assert distillgan("verify", tmp_path).exit_code == 0


def test_verify_goes_on_after_a_bad_file_and_ends_with_a_count(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    good = VALID / "plain.distillgan"
    for name in ("a.distillgan", "sub/c.distillgan", "sub/.hidden/d.distillgan", ".e.distillgan"):
        shutil.copy(good, tmp_path / name)
    (tmp_path / "b.distillgan").write_bytes(b"junk")
    (tmp_path / "link.distillgan").symlink_to(good)
    (tmp_path / "other.txt").write_bytes(b"junk")
    result = distillgan("verify", tmp_path)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[-1] == "2 ok, 1 damaged"
    assert lines[0] == f"{tmp_path}/a.distillgan: intact"
    assert lines[1].startswith(f"{tmp_path}/b.distillgan: file.format: ")
    assert len(lines) == 4
    answer = ascii_json(distillgan("verify", tmp_path, "--json").stdout)
    assert (answer["ok"], answer["damaged"], answer["quick"]) == (2, 1, False)
    assert [file["ok"] for file in answer["files"]] == [True, False, True]


def test_verify_names_every_problem_of_a_file(pair: Path) -> None:
    with Container.open(pair) as container:
        for component in container.components:
            flip(pair, container.data_offset(component))
    lines = distillgan("verify", pair).stdout.splitlines()
    assert sum("digest.tensor" in line for line in lines) == 2
    assert sum("zip.crc" in line for line in lines) == 2
    assert lines[-1] == "0 ok, 1 damaged"


def test_quick_verification_never_says_intact(pair: Path) -> None:
    with Container.open(pair) as container:
        flip(pair, container.data_offset("vae"))
    result = distillgan("verify", "--quick", pair)
    assert result.exit_code == 0
    assert "intact" not in result.output


def test_verify_of_a_missing_and_a_good_file_is_misuse_and_checks_the_good_one(tmp_path: Path) -> None:
    result = distillgan("verify", tmp_path / "none.distillgan", VALID / "plain.distillgan")
    assert result.exit_code == 2
    assert "intact" in result.stdout
    assert "not found" in result.stderr


def test_unpacked_members_open_in_the_stock_library(real_pair: Path, tmp_path: Path) -> None:
    result = distillgan("unpack", real_pair, "-d", tmp_path / "out")
    assert result.exit_code == 0
    assert names_in(tmp_path / "out") == ["manifest.json", "vae.safetensors", "vocoder.safetensors"]
    assert result.stdout.splitlines() == [
        str(tmp_path / "out" / name) for name in ("manifest.json", "vae.safetensors", "vocoder.safetensors")
    ]
    reference = torch.load(GENERATOR, map_location="cpu", weights_only=True)["generator"]
    found = load_file(tmp_path / "out" / "vocoder.safetensors")
    assert {n: raw(t) for n, t in found.items()} == {n: raw(t) for n, t in reference.items()}
    with safe_open(tmp_path / "out" / "vae.safetensors", "pt") as file:
        assert len(file.keys()) == 57
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["version"] == 1


def test_one_component_is_unpacked_and_an_unknown_one_is_misuse(real_pair: Path, tmp_path: Path) -> None:
    assert distillgan("unpack", real_pair, "-d", tmp_path, "--component", "vae").exit_code == 0
    assert names_in(tmp_path) == ["vae.safetensors"]
    result = distillgan("unpack", real_pair, "-d", tmp_path, "--component", "preview")
    assert result.exit_code == 2
    assert "vocoder" in result.stderr


def test_unpacking_over_a_file_is_refused_and_forced(real_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "vae.safetensors").write_bytes(b"old")
    result = distillgan("unpack", real_pair, "-d", tmp_path)
    assert result.exit_code == 2
    assert (tmp_path / "vae.safetensors").read_bytes() == b"old"
    assert distillgan("unpack", real_pair, "-d", tmp_path, "--force").exit_code == 0
    assert load_file(tmp_path / "vae.safetensors")


def test_only_what_is_intact_is_unpacked_from_a_damaged_file(pair: Path, tmp_path: Path) -> None:
    with Container.open(pair) as container:
        flip(pair, container.data_offset("vocoder") + 100)
    result = distillgan("unpack", pair, "-d", tmp_path / "out", "--json")
    assert result.exit_code == 1
    answer = ascii_json(result.stdout)
    assert names_in(tmp_path / "out") == ["manifest.json", "vae.safetensors"]
    assert {item["entry"] for item in answer["lost"]} == {"vocoder.safetensors"}
    assert "digest.tensor" in {item["code"] for item in answer["lost"]}


def test_compressing_and_decompressing_give_the_file_back(pair: Path, tmp_path: Path) -> None:
    data = pair.read_bytes()
    result = distillgan("compress", pair, "--json")
    assert result.exit_code == 0
    frame = Path(ascii_json(result.stdout)["path"])
    assert frame.name == "pair.distillgan.zst"
    parameters = zstandard.get_frame_parameters(frame.read_bytes())
    assert parameters.content_size == len(data)
    assert parameters.has_checksum
    assert parameters.window_size <= 8 << 20
    assert zstandard.ZstdDecompressor().decompress(frame.read_bytes()) == data
    assert distillgan("verify", frame).exit_code == 0
    assert distillgan("decompress", frame).exit_code == 2  # pair.distillgan is still there
    assert distillgan("decompress", frame, "-o", tmp_path / "b.distillgan").exit_code == 0
    assert (tmp_path / "b.distillgan").read_bytes() == data
    assert distillgan("compress", pair).exit_code == 2
    assert distillgan("compress", frame).exit_code == 1
    assert distillgan("decompress", pair, "-o", tmp_path / "c").exit_code == 1
    assert not (tmp_path / "c").exists()


def test_a_damaged_file_is_not_compressed(pair: Path) -> None:
    with Container.open(pair) as container:
        flip(pair, container.data_offset("vae"))
    assert distillgan("compress", pair).exit_code == 1
    assert names_in(pair.parent) == ["pair.distillgan"]


def test_a_real_process_keeps_answers_and_complaints_apart(tmp_path: Path) -> None:
    good, bad = VALID / "plain.distillgan", tmp_path / "bad.distillgan"
    bad.write_bytes(b"junk")
    result = command("verify", good, bad, tmp_path / "none.distillgan")
    assert result.returncode == 2
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == f"Model file not found: {tmp_path}/none.distillgan\n"


def test_a_closed_pipe_is_no_traceback() -> None:
    argv = f"{sys.executable} -m distillgan_cli inspect --json {VALID / 'full.distillgan'} | true"
    result = subprocess.run(
        ["bash", "-c", argv], capture_output=True, text=True, env=environment(), timeout=50, check=False
    )
    assert "Traceback" not in result.stderr


def test_a_full_disk_is_exit_code_one_and_a_sentence() -> None:
    argv = f"{sys.executable} -m distillgan_cli inspect {VALID / 'full.distillgan'} > /dev/full"
    result = subprocess.run(
        ["bash", "-c", argv], capture_output=True, text=True, env=environment(), timeout=50, check=False
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"model": {f"w{i}": torch.rand(1_000_000) for i in range(20)}}, source)
    argv = [sys.executable, "-m", "distillgan_cli", "pack", str(source), "-o", str(tmp_path / "o.distillgan")]
    with subprocess.Popen(argv, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not [n for n in names_in(tmp_path) if n.endswith(".tmp")]:
            pass
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=50)
    assert "Traceback" not in complaint
    assert [n for n in names_in(tmp_path) if n.endswith(".tmp")] == []
    assert process.returncode == 0 or names_in(tmp_path) == ["a.pt"]


def test_a_container_is_a_zip_for_everybody(real_pair: Path) -> None:
    with zipfile.ZipFile(real_pair) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", "vae.safetensors", "vocoder.safetensors"]


def test_a_model_given_as_a_vocoder_is_refused_and_a_vocoder_given_as_a_model_is_warned_of(
    tmp_path: Path,
) -> None:
    model, vocoder = CHECKPOINT, GENERATOR
    swapped = distillgan("pack", model, "--vocoder", model, "-o", tmp_path / "a.distillgan")
    assert swapped.exit_code == 1
    assert "this is a model, not a vocoder" in swapped.stderr
    alone = distillgan("pack", vocoder, "-o", tmp_path / "b.distillgan")
    assert alone.exit_code == 0
    assert "looks like a vocoder" in alone.stderr
