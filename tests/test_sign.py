"""One SSH signature over the manifest covers every byte of a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from distillgan_cli.main import cli

from distillgan import Container, DistillganError, ModelMetadata, ModelNotFoundError, signing, verify
from distillgan.edit import edit_metadata, strip_vocoder
from distillgan.signing import SignatureCheck, check_signature, sign
from distillgan.torch import save_model

if shutil.which("ssh-keygen") is None and not os.environ.get("CI"):
    pytest.skip("needs ssh-keygen", allow_module_level=True)

ALICE = "alice@example.com"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with alice's, bob's and a locked key, and files of allowed signers."""
    folder = tmp_path_factory.mktemp("keys")
    for name, passphrase in (("alice", ""), ("bob", ""), ("locked", "secret")):
        keygen("-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", str(folder / name))
    alice, bob = (" ".join((folder / name).read_text().split()[:2]) for name in ("alice.pub", "bob.pub"))
    (folder / "allowed").write_text(f"# our signers\n{ALICE} {alice}\n")
    (folder / "wildcard").write_text(f"*@example.com {alice}\n")
    (folder / "elsewhere").write_text(f'{ALICE} namespaces="git" {alice}\n')
    (folder / "expired").write_text(f'{ALICE} valid-before="20010101" {alice}\n')
    (folder / "twice").write_text(f"{ALICE} {alice}\nally@example.com {alice}\n")
    (folder / "both").write_text(f"{ALICE} {alice}\n*@example.com {alice}\nbob@example.com {bob}\n")
    (folder / "empty").write_text("")
    (folder / "spoiled").write_text("no such line\n\0\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    vocoder = {"type": "hifigan", "state_dict": {"v": torch.ones(3)}}
    return save_model(
        {"w": torch.arange(64.0)}, None, None, ModelMetadata(name="Rain"), tmp_path, vocoder_state=vocoder
    )


@pytest.fixture
def signed(model: Path, keys: Path) -> Path:
    sign(model, keys / "alice")
    return model


def keygen(*arguments: str) -> None:
    subprocess.run(["ssh-keygen", *arguments], check=True, stdin=subprocess.DEVNULL, timeout=30)


def check(path: Path, allowed: Path, **options: object) -> SignatureCheck:
    with Container.open(path) as container:
        return check_signature(container, allowed, **options)  # type: ignore[arg-type]


def code(path: Path, allowed: Path, **options: object) -> str:
    found = check(path, allowed, **options)
    assert found.good is None
    (problem,) = found.problems
    assert problem.where == "manifest.json.sig"
    return problem.code


def test_signing_adds_a_signature_and_keeps_every_other_member(model: Path, keys: Path) -> None:
    before = read_members(model)
    sign(model, keys / "alice")
    after = read_members(model)
    assert after.pop("manifest.json.sig").startswith(b"-----BEGIN SSH SIGNATURE-----\n")
    assert after == before
    assert verify(model) == []


def test_a_good_signature_names_the_signer_and_the_key(signed: Path, keys: Path) -> None:
    listed = subprocess.check_output(["ssh-keygen", "-l", "-f", keys / "alice.pub"], text=True)
    expected = f"good signature by {ALICE} with ssh-ed25519 {listed.split()[1]}"
    assert check(signed, keys / "allowed") == ([], expected)
    assert check(signed, keys / "allowed", identity=ALICE, require=True) == ([], expected)


@pytest.mark.parametrize("identity", [None, ALICE, "mallory@example.com"])
def test_behind_a_wildcard_stands_any_identity(signed: Path, keys: Path, identity: str | None) -> None:
    good = check(signed, keys / "wildcard", identity=identity).good
    assert good is not None and good.startswith("good signature by any identity (*@example.com)")


def test_a_key_that_is_listed_twice_has_each_of_its_names(signed: Path, keys: Path) -> None:
    good = check(signed, keys / "twice", identity="ally@example.com").good
    assert good is not None and good.startswith("good signature by ally@example.com")
    assert code(signed, keys / "twice", identity="bob@example.com") == "signature.identity"


def test_a_name_listed_for_another_key_is_behind_the_wildcard_too(signed: Path, keys: Path) -> None:
    good = check(signed, keys / "both", identity="bob@example.com").good
    assert good is not None and good.startswith("good signature by any identity (*@example.com)")
    good = check(signed, keys / "both", identity=ALICE).good
    assert good is not None and good.startswith(f"good signature by {ALICE} with")


@pytest.mark.parametrize("identity", ["bob@example.com", "*", "", "-n", "--", "alice"])
def test_another_identity_is_wrong(signed: Path, keys: Path, identity: str) -> None:
    assert code(signed, keys / "allowed", identity=identity) == "signature.identity"


@pytest.mark.parametrize("allowed", ["empty", "spoiled", "elsewhere", "expired"])
def test_a_signer_who_is_not_allowed_is_unknown(signed: Path, keys: Path, allowed: str) -> None:
    assert code(signed, keys / allowed) == "signature.unknown"


def test_another_key_than_the_allowed_one_is_unknown(model: Path, keys: Path) -> None:
    sign(model, keys / "bob")
    assert code(model, keys / "allowed", identity=ALICE) == "signature.unknown"


def test_a_signature_of_another_manifest_is_altered(signed: Path, keys: Path, tmp_path: Path) -> None:
    armor = read_members(signed)["manifest.json.sig"]
    edit_metadata(signed, name="Forged")
    with signing.open_whole(signed) as container:
        contents = signing.kept(container) | {"manifest.json.sig": signing.BytesContent(armor)}
        signing.rewrite(container, lambda: container.manifest, contents)
    assert verify(signed) == []  # the file is whole; only the signature is not its own
    assert code(signed, keys / "allowed") == "signature.altered"
    assert code(signed, keys / "empty") == "signature.altered"


def test_a_damaged_signature_is_altered(signed: Path, keys: Path) -> None:
    with Container.open(signed) as container:
        entry = container.entry("manifest.json.sig")
    assert entry is not None
    data = bytearray(signed.read_bytes())
    at = entry.offset + entry.size - 40  # inside the base64 text
    data[at] = ord("A") if data[at] != ord("A") else ord("B")
    signed.write_bytes(data)
    assert code(signed, keys / "allowed") == "signature.altered"


def test_an_unsigned_file_is_a_problem_only_where_a_signature_is_required(model: Path, keys: Path) -> None:
    assert check(model, keys / "allowed") == ([], None)
    assert code(model, keys / "allowed", require=True) == "signature.missing"


def test_signing_again_replaces_the_signature(signed: Path, keys: Path) -> None:
    before = signed.read_bytes()
    sign(signed, keys / "bob")
    sign(signed, keys / "alice")
    assert signed.read_bytes() == before


def test_any_change_removes_the_signature_and_says_so(
    signed: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_metadata(signed, name="Rain")
    assert caplog.text == "" and "manifest.json.sig" in read_members(signed)  # nothing was changed
    edit_metadata(signed, name="Snow")
    assert f"{signed}: the signature was removed" in caplog.text
    assert "manifest.json.sig" not in read_members(signed)
    sign(signed, keys / "alice")
    caplog.clear()
    strip_vocoder(signed)
    assert "the signature was removed" in caplog.text and verify(signed) == []


def test_unzip_and_ssh_keygen_alone_can_check_it(signed: Path, keys: Path, tmp_path: Path) -> None:
    if shutil.which("unzip") is None and not os.environ.get("CI"):
        pytest.skip("needs unzip")
    script = (
        f"unzip -p {signed.name} manifest.json.sig > manifest.json.sig\n"
        f"unzip -p {signed.name} manifest.json |\n"
        f"ssh-keygen -Y verify -n distillgan -f '{keys}/allowed' -I {ALICE} -s manifest.json.sig\n"
    )
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith(f'Good "distillgan" signature for {ALICE} with ED25519 key SHA256:')
    assert done.returncode == 0


def test_what_ssh_keygen_signs_for_other_purposes_is_not_a_signature_here(model: Path, keys: Path) -> None:
    with Container.open(model) as container:
        manifest = container.read_entry("manifest.json")
    command = ["ssh-keygen", "-Y", "sign", "-n", "git", "-f", keys / "alice"]
    armor = subprocess.run(command, input=manifest, capture_output=True, check=True).stdout
    with signing.open_whole(model) as container:
        contents = signing.kept(container) | {"manifest.json.sig": signing.BytesContent(armor)}
        signing.rewrite(container, lambda: container.manifest, contents)
    assert [problem.code for problem in verify(model)] == ["signature.armor"]


def test_a_locked_key_without_a_terminal_is_a_sentence_and_not_a_wait(model: Path, keys: Path) -> None:
    before = model.read_bytes()
    script = (
        "import sys; from distillgan.signing import sign\n"
        "try: sign(*sys.argv[1:])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, model, keys / "locked"],
        capture_output=True, text=True, timeout=30, start_new_session=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stdout.startswith(f"DistillganError {keys / 'locked'}: ssh-keygen cannot sign with this key")
    assert "in a terminal" in done.stdout and ".pub" in done.stdout
    assert model.read_bytes() == before


def test_without_ssh_keygen_the_cure_is_said(
    model: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DistillganError, match="ssh-keygen was not found: install OpenSSH"):
        sign(model, keys / "alice")


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script in the place of ssh-keygen."""
    if os.name == "nt":
        pytest.skip("a script stands in for ssh-keygen")
    program = folder / "bin" / "ssh-keygen"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)


def test_an_ssh_keygen_that_waits_is_not_waited_for(
    model: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exec sleep 20")
    monkeypatch.setattr(signing, "_SECONDS", 0.2)
    with pytest.raises(DistillganError, match="did not answer"):
        sign(model, keys / "alice")


def test_an_ssh_keygen_that_cannot_check_is_no_altered_signature(
    signed: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "echo 'No user exists for uid 23456' >&2; exit 255")
    with Container.open(signed) as container, pytest.raises(DistillganError, match="No user exists"):
        check_signature(container, keys / "allowed")


def test_a_key_that_others_may_read_is_told_with_the_cure(model: Path, keys: Path, tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("ssh-keygen looks at modes on other systems")
    key = Path(shutil.copy(keys / "alice", tmp_path / "key"))
    key.chmod(0o644)
    with pytest.raises(DistillganError, match="chmod 600"):
        sign(model, key)


def test_a_file_that_is_no_key_is_a_sentence(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    (tmp_path / "key").write_text("not a key\n")
    with pytest.raises(DistillganError, match="cannot sign with this key"):
        sign(model, tmp_path / "key")
    with pytest.raises(ModelNotFoundError, match="Key not found"):
        sign(model, tmp_path / "none")
    assert model.read_bytes() == before


def test_names_that_look_like_options_are_names(
    model: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "odd names; $(x)"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for source, name in (("alice", "-Y key"), ("allowed", "-f allowed")):
        shutil.copy(keys / source, folder / name)
    sign(model, "-Y key")
    assert check(model, Path("-f allowed")).good is not None


def test_a_missing_file_of_allowed_signers_is_an_error(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Allowed-signers file not found"):
        check(signed, tmp_path / "none")


def test_the_command_signs_many_files(model: Path, keys: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.distillgan"
    other.write_bytes(model.read_bytes())
    arguments = [
        "sign",
        str(model),
        str(tmp_path / "none.distillgan"),
        str(other),
        "--key",
        str(keys / "alice"),
    ]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.stdout) == (2, f"{model}\n{other}\n")
    assert check(model, keys / "allowed").good and check(other, keys / "allowed").good


def read_members(path: Path) -> dict[str, bytes]:
    with Container.open(path) as container:
        return {entry.name: container.read_entry(entry.name) or b"" for entry in container.entries}
