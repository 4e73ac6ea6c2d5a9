"""What can go wrong, as one tree.

    DistillganError
    ├── FormatError (ValueError)        .path .code .where
    │   ├── LegacyFormatError           str() is exactly the sentence
    │   ├── UnsupportedVersionError
    │   └── IntegrityError              .component .tensor
    ├── CheckpointError (ValueError)
    ├── PairingError
    ├── ModelNotFoundError
    └── AmbiguousModelError

Codes are listed in FORMAT.md with their usual cause and cure.
"""

from __future__ import annotations

import os

LEGACY_FILE = "This model was saved in v1 format which is no longer supported. Please retrain your model."
LEGACY_REFERENCE = (
    "This model was saved in v1 format (.distill) which is no longer supported. Please retrain your model."
)


_LONGEST = 400  # characters: a message is read by people, and a file's own words may be a million


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:300]}…{text[-60:]}"


class DistillganError(Exception):
    """Any complaint of distillgan; the message is a sentence for people."""


class FormatError(DistillganError, ValueError):
    """A file that is not a correct `.distillgan` container.

    `.path` is the file (None until a door adds it), `.code` a short stable word,
    `.where` the entry, field or tensor at fault ("" for the file as a whole),
    `.message` the sentence alone.
    """

    def __init__(self, code: str, message: str, *, where: str = "", path: str | None = None):
        super().__init__(message)
        self.code = code
        self.message = _shorten(message)
        self.where = _shorten(where)
        self.path = path

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        file = f"{self.path}: " if self.path else ""
        return f"{file}{self.code}: {place}{self.message}"

    def at(self, path: str | os.PathLike[str]) -> FormatError:
        """Add the file's path, and return the same error."""
        self.path = os.fspath(path)
        return self


class LegacyFormatError(FormatError):
    """A model saved in the v1 format, which nothing reads any more."""

    def __init__(self, sentence: str = LEGACY_FILE, *, path: str | None = None):
        super().__init__("legacy.v1", sentence, path=path)

    def __str__(self) -> str:
        return self.message


class UnsupportedVersionError(FormatError):
    """A container of a format version that this release does not know."""


class IntegrityError(FormatError):
    """Bytes that are not the bytes that were saved."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str = "",
        path: str | None = None,
        component: str | None = None,
        tensor: str | None = None,
    ):
        super().__init__(code, message, where=where, path=path)
        self.component = component
        self.tensor = tensor


class CheckpointError(DistillganError, ValueError):
    """A checkpoint or state dict that cannot be packed faithfully and safely."""


class PairingError(DistillganError):
    """A vocoder that does not go with the model; the message gives every reason."""


class ModelNotFoundError(DistillganError):
    """No such file, id or name."""


class AmbiguousModelError(DistillganError):
    """A reference that more than one model answers to."""
