"""Make a preview from a sound file: FLAC as it is, any other sound through soundfile."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

from . import _archive
from ._safetensors import digest
from .errors import DistillganError, FormatError, ModelNotFoundError
from .manifest import MAX_PREVIEW, Preview

_MAGIC = b"fLaC"
_STREAMINFO = b"\x00\x00\x00\x22"  # block type 0, 34 bytes; the top bit says that no other follows
_RATE_AT = 18  # after the magic, the block's header, block sizes and frame sizes
_MAX_PCM = 8 * MAX_PREVIEW  # bytes at 16 bits: FLAC does not shrink a sound further than this


def read_preview(path: str | os.PathLike[str]) -> tuple[Preview, bytes]:
    """Read a sound file as a container's preview: how the manifest describes it, and its FLAC bytes.

    FLAC is taken as it is; any other sound is converted to 16 bits. Raises FormatError
    `preview.format` or `preview.size`, ModelNotFoundError, and DistillganError when soundfile is
    needed and missing.
    """
    try:
        with open(path, "rb", opener=lambda name, _: _archive.open_regular(name)) as file:
            data = _read(file)
        return describe_preview(data), data
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(f"Sound file not found: {os.fspath(path)}") from None
    except IsADirectoryError:
        raise FormatError("file.type", "this is a folder, not a file").at(path) from None
    except FormatError as error:
        raise error.at(path) from None


def describe_preview(data: bytes) -> Preview:
    """The manifest's `preview` for the bytes of a FLAC file, from its STREAMINFO block (RFC 9639, 8.2)."""
    if len(data) > MAX_PREVIEW:
        raise _too_large()
    if len(data) < 42 or data[:4] != _MAGIC or bytes([data[4] & 0x7F]) + data[5:8] != _STREAMINFO:
        raise FormatError("preview.format", "not a whole FLAC file: export the sound again")
    fields = int.from_bytes(data[_RATE_AT : _RATE_AT + 8])  # 20 bits rate, 8 bits shape, 36 bits length
    sample_rate, samples = fields >> 44, fields & (1 << 36) - 1
    if not sample_rate or not samples:
        raise FormatError(
            "preview.format", "the FLAC file does not say its rate or length: encode it again with `flac`"
        )
    return Preview(
        digest="blake3:" + digest(data),
        bytes=len(data),
        sample_rate=sample_rate,
        duration_s=samples / sample_rate,
    )


def _read(file: BinaryIO) -> bytes:
    """The bytes of an open sound file as FLAC."""
    _archive.file_status(file.fileno())  # refuses what is not a regular file
    magic = file.read(4)
    file.seek(0)
    return file.read(MAX_PREVIEW + 1) if magic == _MAGIC else _convert(file)


def _convert(file: BinaryIO) -> bytes:
    """Any sound that libsndfile knows, as 16-bit FLAC with the same rate and channels."""
    try:
        import soundfile  # the extra `audio`; a FLAC preview must not need it
    except (ImportError, OSError):  # OSError: the package is there and its library is not
        raise DistillganError(
            "Only a FLAC file can be a preview without soundfile: pip install 'distillgan[audio]'"
        ) from None
    flac = io.BytesIO()
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.frames * sound.channels * 2 > _MAX_PCM:
                raise _too_large()
            soundfile.write(flac, sound.read(dtype="float32"), sound.samplerate, "PCM_16", format="FLAC")
    except (soundfile.SoundFileError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise FormatError(
            "preview.format", f"not a sound that can be converted ({reason}): export it as WAV or FLAC"
        ) from None
    return flac.getvalue()


def _too_large() -> FormatError:
    return FormatError("preview.size", "a preview has at most 4 MiB as FLAC: cut it to a few seconds")
