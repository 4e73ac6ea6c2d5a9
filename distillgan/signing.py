"""Sign models, and check who signed them, through the system's `ssh-keygen`, as git does.

The signature is over the bytes of `manifest.json`, which vouches for every other byte.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ._archive import FIRST_NAME
from ._text import printable
from .container import SIGNATURE_NAME, Container
from .edit import kept, open_whole, rewrite
from .errors import DistillganError, FormatError, ModelNotFoundError
from .signature import NAMESPACE, decode_armor
from .verify import Problem
from .writer import BytesContent

_SECONDS = 120  # for a passphrase on the terminal, or a touch of a hardware key
_WILDCARDS = frozenset("*?")


_ALTERED = re.compile(rb"Could not verify signature|verification failed")


class SignatureCheck(NamedTuple):
    """What came of checking a signature: its problems, or a sentence if it is good."""

    problems: list[Problem]
    good: str | None = None


def sign(path: str | os.PathLike[str], key: str | os.PathLike[str]) -> None:
    """Sign a model with an SSH key, in place of any signature that it has.

    `key` is a private key file, or the public one of a key that ssh-agent holds; a passphrase is
    asked for on the terminal if there is one. Raises DistillganError when ssh-keygen is missing or
    refuses, FormatError for a damaged file; the file is as it was then.
    """
    with open_whole(path) as container:
        armor = _sign(container.read_entry(FIRST_NAME) or b"", key)
        contents = kept(container) | {SIGNATURE_NAME: BytesContent(armor)}
        rewrite(container, lambda: container.manifest, contents)


def check_signature(
    container: Container,
    allowed_signers: str | os.PathLike[str],
    *,
    identity: str | None = None,
    require: bool = False,
) -> SignatureCheck:
    """Check who signed a container, against an allowed-signers file (ssh-keygen(1)).

    An unsigned file is a problem only if `require`. The manifest is what is signed, so a signature
    is good only for a file in which `verify`, not `quick`, finds nothing. Codes: `signature.missing`,
    `.altered`, `.unknown`, `.identity`. Raises DistillganError without ssh-keygen,
    ModelNotFoundError without the allowed-signers file.
    """
    signers = _existing(allowed_signers, "Allowed-signers file")
    try:
        manifest, armor = container.read_entry(FIRST_NAME), container.read_entry(SIGNATURE_NAME)
        if manifest is None or armor is None:
            return _problem("missing", "the file is not signed") if require else SignatureCheck([])
        return _check(manifest, armor, signers, identity)
    except FormatError as error:
        return _problem("altered", error.message)


def _sign(data: bytes, key: str | os.PathLike[str]) -> bytes:
    name = _existing(key, "Key")
    done = _ssh_keygen("-Y", "sign", "-n", NAMESPACE, "-f", name, data=data)
    if done.returncode != 0:
        raise DistillganError(_explain_key(name, _said(done.stderr)))
    armor = done.stdout.replace(b"\r\n", b"\n")  # Windows' ssh-keygen writes text
    decode_armor(armor)
    return armor


def _check(manifest: bytes, armor: bytes, signers: str, identity: str | None) -> SignatureCheck:
    signed = decode_armor(armor)
    key = f"{signed.key_type} {signed.fingerprint}"
    with tempfile.TemporaryDirectory(prefix="distillgan-") as folder:
        path = os.path.join(folder, SIGNATURE_NAME)
        Path(path).write_bytes(armor)
        done = _ssh_keygen("-Y", "check-novalidate", "-n", NAMESPACE, "-s", path, data=manifest)
        if done.returncode and not _ALTERED.search(done.stdout + done.stderr):
            raise DistillganError(f"ssh-keygen cannot check signatures here: {_said(done.stderr)}.")
        if done.returncode:
            return _problem("altered", "the manifest is not what was signed, or the signature is altered")
        found = _ssh_keygen("-Y", "find-principals", "-s", path, "-f", signers)
        principals = found.stdout.decode(errors="replace").splitlines()
        if found.returncode:
            return _problem("unknown", f"signed with {key}, which is not among the allowed signers")
        names = list(dict.fromkeys([*principals, *_patterns(signers, signed.public_key)]))
        for name in names if identity is None else [identity]:
            done = _ssh_keygen(
                "-Y", "verify", "-n", NAMESPACE, "-s", path, "-f", signers, "-I", name, data=manifest
            )
            if not done.returncode:
                return SignatureCheck([], f"good signature by {_describe(name, names)} with {key}")
    if identity is None:
        return _problem("unknown", f"signed with {key}, which is allowed, but not for {NAMESPACE} today")
    return _problem("identity", f"signed by {', '.join(names)} with {key}, not by {identity}")


def _patterns(signers: str, public_key: bytes) -> Iterator[str]:
    """The principals of every line with this key; find-principals stops at the first."""
    key = base64.b64encode(public_key).decode()
    for line in Path(signers).read_text(errors="replace").splitlines():
        words = line.split()
        if key in words:
            yield from words[0].strip('"').split(",")


def _describe(name: str, names: list[str]) -> str:
    """Who signed; behind a wildcard stands anybody, whatever identity was asked for."""
    wildcards = [pattern for pattern in names if _WILDCARDS & set(pattern)]
    named = not wildcards or name in set(names) - set(wildcards)
    return name if named else f"any identity ({', '.join(wildcards)})"


def _problem(code: str, message: str) -> SignatureCheck:
    return SignatureCheck([Problem(f"signature.{code}", SIGNATURE_NAME, message)])


def _ssh_keygen(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise DistillganError(
            "ssh-keygen was not found: install OpenSSH 8.2 or later "
            "(apt install openssh-client; on Windows the feature OpenSSH Client)."
        )
    environment = os.environ | {"SSH_ASKPASS_REQUIRE": "never"}  # no window that nobody sees
    try:
        return subprocess.run(
            [program, *arguments], input=data, capture_output=True, env=environment, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DistillganError(f"ssh-keygen did not answer in {_SECONDS} seconds; nothing was done.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        raise DistillganError(f"ssh-keygen cannot be run: {error}") from None


def _existing(path: str | os.PathLike[str], kind: str) -> str:
    """An absolute path, which no program takes for an option."""
    name = os.path.abspath(path)
    if not os.path.isfile(name):
        raise ModelNotFoundError(f"{kind} not found: {os.fspath(path)}")
    return name


def _explain_key(key: str, reason: str) -> str:
    cure = ""
    if "too open" in reason:
        cure = f"; only you may read a private key: chmod 600 {key}"
    elif "passphrase" in reason:
        cure = "; run this in a terminal, or add the key to ssh-agent and give its .pub file"
    return f"{key}: ssh-keygen cannot sign with this key ({reason}){cure}."


def _said(text: bytes) -> str:
    """What a program wrote, in a line, without its frames of @."""
    lines = [line.strip(" @\r") for line in text.decode(errors="replace").splitlines()]
    return printable(" ".join(filter(None, lines))).rstrip(".") or "it does not say why"
