"""`distillgan verify`: prove that files are what was saved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from distillgan.container import Container
from distillgan.errors import DistillganError, FormatError
from distillgan.pairing import pairing_of
from distillgan.signing import SignatureCheck, check_signature
from distillgan.verify import Problem
from distillgan.verify import verify as find_problems

from ._shared import (
    files_argument,
    find_file,
    json_option,
    library_option,
    note,
    progress_bar,
    show,
    show_json,
)
from .main import complain, exit_code

_SUFFIXES = (".distillgan", ".distillgan.zst")


class Report(NamedTuple):
    """What was found in one file."""

    path: str
    problems: list[Problem]
    warnings: list[str]
    signature: str | None = None


class Signer(NamedTuple):
    """Whose signature is asked for."""

    allowed_signers: str | None
    identity: str | None
    require: bool


@click.command()
@files_argument
@click.option("--quick", is_flag=True, help="Leave out digests and CRCs of the weights.")
@click.option("--allowed-signers", type=click.Path(), help="Who may sign: a file as in ssh-keygen(1).")
@click.option("--identity", metavar="WHO", help="Who must have signed.")
@click.option("--require-signature", is_flag=True, help="An unsigned file is a problem.")
@json_option
@library_option
@click.pass_context
def verify(
    ctx: click.Context,
    files: tuple[str, ...],
    quick: bool,
    as_json: bool,
    library: Path | None,
    allowed_signers: str | None,
    identity: str | None,
    require_signature: bool,
) -> None:
    """Check every byte of each FILE (or of all models in a folder) and name what is wrong.

    Prints one line per problem, `path: code: where: sentence`, and a count at the end. --json gives
    {"files": [{"path", "ok", "problems": [{"code", "where", "message"}], "warnings", "signature"}], "ok",
    "damaged", "quick"}. Exit code 1 if anything is damaged.
    """
    if allowed_signers is None and (identity is not None or require_signature):
        raise click.UsageError("--identity and --require-signature need --allowed-signers.")
    signer = Signer(allowed_signers, identity, require_signature)
    reports: list[Report] = []
    worst = 0
    for reference in files:
        try:
            for path in _expand(find_file(reference, library)):
                reports.append(_check(path, quick, signer))
                if not as_json:
                    _show(reports[-1], quick)
        except (DistillganError, OSError) as error:
            complain(error)
            worst = max(worst, exit_code(error))
    damaged = sum(bool(report.problems) for report in reports)
    if as_json:
        show_json(_as_json(reports, damaged, quick))
    elif reports or not worst:
        show(f"{len(reports) - damaged} ok, {damaged} damaged")
    ctx.exit(max(worst, int(damaged > 0)))


def _expand(path: Path) -> Iterator[Path]:
    """The file itself, or the models in a folder and its subfolders; hidden ones and links are not."""
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if name.endswith(_SUFFIXES) and not name.startswith(".") and not file.is_symlink():
                yield file


def _check(path: Path, quick: bool, signer: Signer) -> Report:
    size = path.stat().st_size if path.is_file() else 0
    with progress_bar(path.name, 0 if quick else size) as progress:
        problems = find_problems(path, quick=quick, progress=progress)
    if problems:
        return Report(os.fspath(path), problems, [])
    try:
        with Container.open(path) as container:
            signature = _check_signature(container, quick, signer)
            pairing = pairing_of(container)
    except FormatError as error:  # changed since it was verified
        return Report(os.fspath(path), [Problem(error.code, error.where, error.message)], [])
    warnings = [f"the vocoder {pairing.verdict}"] if pairing is not None and pairing.mismatches else []
    return Report(os.fspath(path), signature.problems, warnings, signature.good)


def _check_signature(container: Container, quick: bool, signer: Signer) -> SignatureCheck:
    """Who signed, if that is asked; never good without full digests."""
    if signer.allowed_signers is None:
        return SignatureCheck([])
    found = check_signature(
        container, signer.allowed_signers, identity=signer.identity, require=signer.require
    )
    return found._replace(good=None) if quick else found


def _show(report: Report, quick: bool) -> None:
    for problem in report.problems:
        where = f"{problem.where}: " if problem.where else ""
        show(f"{report.path}: {problem.code}: {where}{problem.message}")
    if not report.problems:
        show(f"{report.path}: {'no problem found, weights not read' if quick else 'intact'}")
    if report.signature is not None:
        show(f"{report.path}: {report.signature}")
    for warning in report.warnings:
        note(f"{report.path}: warning: {warning}")


def _as_json(reports: list[Report], damaged: int, quick: bool) -> dict[str, Any]:
    files = [
        {
            "path": report.path,
            "ok": not report.problems,
            "problems": [problem._asdict() for problem in report.problems],
            "warnings": report.warnings,
            **({} if report.signature is None else {"signature": report.signature}),
        }
        for report in reports
    ]
    return {"files": files, "ok": len(reports) - damaged, "damaged": damaged, "quick": quick}
