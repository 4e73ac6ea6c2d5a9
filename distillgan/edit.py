"""Change a model and nothing else of its file: metadata, preview, vocoder.

What is kept is copied inside the kernel and not hashed again: damage to it stays as visible as it
was. The file is replaced in one step, and only if it is still the one that was opened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from . import _atomic
from ._archive import FIRST_NAME
from ._text import printable
from .container import COMPONENTS, PREVIEW_NAME, SIGNATURE_NAME, Container, entry_name
from .errors import DistillganError, FormatError, PairingError
from .manifest import (
    Manifest,
    ModelMetadata,
    Preview,
    Vae,
    Vocoder,
    check_open_objects,
    decode_manifest,
    decode_object,
    encode_manifest,
    encode_metadata,
    encode_object,
)
from .pairing import check_pairing
from .preview import read_preview
from .writer import BytesContent, Content, CopiedContent, TensorContent, write_container

logger = logging.getLogger("distillgan")

_VOCODER_NAME = entry_name("vocoder")
_ORDER = (*map(entry_name, COMPONENTS), PREVIEW_NAME, SIGNATURE_NAME)
_REFUSED = {
    **dict.fromkeys(Manifest.__struct_encode_fields__, "it describes the weights"),
    **dict.fromkeys(Vae.__struct_encode_fields__, "it describes the weights"),
    "metadata": "name one of its fields",
    "extra": "name the key itself",
    "model_id": "it stays with the model; a copy gets its own with new_id (--new-id)",
    "save_date": "it says when the weights were saved",
    "has_analysis": "it follows the latent analysis",
    "n_active_components": "it follows the latent analysis",
}
EDITABLE = tuple(field.name for field in dataclasses.fields(ModelMetadata) if field.name not in _REFUSED)


class VocoderRecipe(Protocol):
    """A vocoder to be written: its tensors, its configuration, and how the manifest describes it."""

    content: TensorContent
    config: dict[str, Any] | None

    def describe(self) -> Vocoder:
        """The manifest's `vocoder`, right once the content is written."""


def edit_metadata(
    path: str | os.PathLike[str],
    *,
    add_tags: Iterable[str] = (),
    remove_tags: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
    preview: str | os.PathLike[str] | None = None,
    new_id: bool = False,
    **changes: Any,
) -> None:
    """Change what people say of a model: fields named in `EDITABLE`, tags, keys of their own (`extra`).

    None forgets a number or an extra key. `preview` is a sound file; `new_id` makes a copy a model of
    its own. A changed file loses its signature, with a logged warning; an edit that changes nothing
    leaves the file alone. Raises DistillganError naming a field that is not the user's to set or a
    value that cannot be stored, FormatError for a damaged file; the file is as it was then.
    """
    extra = dict(extra or {})
    check_names(changes, extra)
    sound = None if preview is None else read_preview(preview)
    with open_whole(path) as container:
        before = container.manifest
        metadata = dataclasses.replace(before.metadata, **changes)
        metadata.tags = _edit_tags(metadata.tags, add_tags, remove_tags)
        metadata.extra = {
            k: v for k, v in (metadata.extra | extra).items() if v is not None or k not in extra
        }
        metadata.model_id = str(uuid.uuid4()) if new_id else metadata.model_id
        after = replace(before, metadata_json=_encode_metadata(before, metadata, path))
        if sound is not None:
            _rewrite_preview(container, after, *sound)
        elif bytes(after.metadata_json) != bytes(before.metadata_json):
            rewrite(container, lambda: after, kept(container))


def strip_vocoder(path: str | os.PathLike[str]) -> None:
    """Take the vocoder out of a model; one that has none is left alone.

    Raises as `edit_metadata` does.
    """
    with open_whole(path) as container:
        if container.manifest.vocoder is not None:
            contents = kept(container)
            del contents[_VOCODER_NAME]
            rewrite(container, lambda: replace(container.manifest, vocoder=None), contents)


def replace_vocoder(
    path: str | os.PathLike[str], vocoder: VocoderRecipe, *, allow_mismatch: bool = False
) -> None:
    """Give a model this vocoder, in place of the one that it may have.

    Raises PairingError with every reason unless `allow_mismatch`, else as `edit_metadata` does.
    """
    with open_whole(path) as container:
        manifest = container.manifest
        tensors = vocoder.content.specs.values()
        pairing = check_pairing(manifest.spectrogram_config, vocoder.config, tensors)
        verdict = f"{printable(container.path)}: the vocoder {printable(pairing.verdict)}"
        if pairing.mismatches and not allow_mismatch:
            raise PairingError(f"{verdict}. allow_mismatch (--allow-mismatch) attaches it all the same.")
        contents = kept(container) | {_VOCODER_NAME: vocoder.content}
        rewrite(container, lambda: replace(manifest, vocoder=vocoder.describe()), contents)
    if pairing.mismatches:
        logger.warning("%s", verdict)


@contextlib.contextmanager
def open_whole(path: str | os.PathLike[str]) -> Iterator[Container]:
    """A container to be changed: structure, headers and open objects are whole; weights are not read."""
    with Container.open(path) as container:
        if container.identity is None:
            raise DistillganError(
                f"{container.path} is compressed: change what `distillgan decompress` makes."
            )
        for component in container.components:
            container.header(component)
        for error in check_open_objects(container.manifest):
            raise error.at(path)
        yield container


def kept(container: Container) -> dict[str, Content]:
    """The entries that an edit keeps: all but the manifest and its signature."""
    names = [entry.name for entry in container.entries]
    return {
        name: CopiedContent(container, name) for name in names if name not in (FIRST_NAME, SIGNATURE_NAME)
    }


def rewrite(container: Container, describe: Callable[[], Manifest], contents: Mapping[str, Content]) -> None:
    """Replace a container's file by one with this manifest and these contents."""
    with _refusal(container.path):
        decode_manifest(encode_manifest(describe()))
    target = Path(os.path.realpath(container.path))  # what a link points to, not the link
    expected = container.identity
    with _atomic.draft(target.parent) as draft:
        write_container(draft.file, describe, {name: contents[name] for name in _ORDER if name in contents})
        container.close()  # Windows does not replace a file that is open
        draft.replace(target, expected=expected)
    if container.entry(SIGNATURE_NAME) is not None and SIGNATURE_NAME not in contents:
        logger.warning("%s: the signature was removed; sign the file again", printable(container.path))


def _rewrite_preview(container: Container, manifest: Manifest, preview: Preview, sound: bytes) -> None:
    contents = kept(container) | {PREVIEW_NAME: BytesContent(sound)}
    rewrite(container, lambda: replace(manifest, preview=preview), contents)


def check_names(changes: Iterable[str], extra: Iterable[str]) -> None:
    """Refuse, with DistillganError, names that `edit_metadata` does not take."""
    for name in (*changes, *extra):
        reason = _REFUSED.get(str(name).split(".")[0])
        if reason is not None:
            raise DistillganError(f"{name} cannot be edited: {reason}.")
    for name in set(changes) - set(EDITABLE):
        raise DistillganError(f"{name} is not a field of the metadata; a key of your own goes into extra.")
    for name in set(extra) & set(EDITABLE):
        raise DistillganError(f"{name} is a field of the metadata, not an extra key.")


def _edit_tags(tags: Any, add: Iterable[str], remove: Iterable[str]) -> Any:
    """Tags without those to remove, then those to add, each once; a string alone is one tag."""
    add, remove = ([tags] if isinstance(tags, str) else list(tags) for tags in (add, remove))
    if not add and not remove:
        return tags
    return list(dict.fromkeys([tag for tag in tags if tag not in remove] + add))


def _encode_metadata(before: Manifest, metadata: ModelMetadata, path: str | os.PathLike[str]) -> msgspec.Raw:
    """The wire form of edited metadata; fields that were absent and are not set stay absent."""
    with _refusal(path):
        _check_values(metadata, before.metadata)
        full = decode_object(encode_metadata(metadata), "metadata") or {}
        present = decode_object(before.metadata_json, "metadata") or {}
        old = before.metadata
        kept = {
            name: value
            for name, value in full.items()
            if name in present or name in metadata.extra or getattr(metadata, name) != getattr(old, name)
        }
        return encode_object(kept, "metadata")


def _check_values(metadata: ModelMetadata, old: ModelMetadata) -> None:
    """What the manifest's schema leaves open and an edit should not get wrong; what was there may stay."""
    if metadata.name != old.name and (metadata.name == "" or str(metadata.name).isspace()):
        raise FormatError("manifest.schema", "a model needs a name", where="name")
    if metadata.training_date == old.training_date:
        return
    try:
        datetime.datetime.fromisoformat(metadata.training_date or "2000-01-01")
    except (TypeError, ValueError):
        message = "not an ISO 8601 date, such as 2026-02-21T10:30:00+00:00"
        raise FormatError("manifest.schema", message, where="training_date") from None


@contextlib.contextmanager
def _refusal(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say of a rule that the new manifest breaks that the edit is at fault, not the file."""
    try:
        yield
    except FormatError as error:
        place = f"{error.where}: " if error.where else ""
        raise DistillganError(f"{os.fspath(path)}: this cannot be stored: {place}{error.message}.") from None
