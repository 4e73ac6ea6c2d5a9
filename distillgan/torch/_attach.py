"""Attach a vocoder to a saved model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from .._text import printable
from ..container import entry_name
from ..edit import replace_vocoder
from ._save import VocoderRecipe, find_not_finite

logger = logging.getLogger("distillgan")


def attach_vocoder(
    model_path: str | os.PathLike[str], vocoder_state: Mapping[str, Any], *, allow_mismatch: bool = False
) -> None:
    """Give a saved model this vocoder, in one step, in place of the one that it may have.

    The VAE's bytes are copied as they are. Values that are not finite, and a mismatch that is
    allowed, are stored and logged as warnings; so is the removal of a signature. Raises
    PairingError with every reason, CheckpointError for what a container cannot hold, FormatError
    for a damaged model; the file is as it was then.
    """
    vocoder = VocoderRecipe(vocoder_state)
    replace_vocoder(model_path, vocoder, allow_mismatch=allow_mismatch)
    warnings = vocoder.warnings + find_not_finite({entry_name("vocoder"): vocoder.content})
    if warnings:
        logger.warning("%s", printable(f"{os.fspath(model_path)}: {'; '.join(warnings)}"))
