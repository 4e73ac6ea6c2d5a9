"""The transport form: one zstd frame that holds a whole container (RFC 8878)."""

from __future__ import annotations

import zstandard

from .errors import DistillganError, FormatError

MAX_WINDOW = 8 * 1024 * 1024
_FREE = 64 * 1024 * 1024  # bytes that any frame may hold
_RATIO = 16  # what a frame may hold beyond, per byte of its own: weights never shrink so far


def compress(data: bytes | memoryview, *, level: int = 10) -> bytes:
    """One zstd frame with content size and checksum, window at most 8 MiB, no dictionary."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(data), write_content_size=True, write_checksum=True, window_log=23
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(data)
    if len(data) > _bound(len(frame)):
        raise DistillganError(
            "This model is almost all zeros: its compressed form would be refused as a bomb. "
            "Keep the .distillgan file as it is."
        )
    return frame


def decompress(frame: bytes) -> bytes:
    """The container in a frame; FormatError `zst.frame` or `zst.size` for any other frame."""
    try:
        parameters = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise FormatError("zst.frame", f"not a zstd frame: {error}") from None
    size = parameters.content_size
    if size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        raise FormatError("zst.frame", "the frame does not say its content size")
    if not parameters.has_checksum or parameters.dict_id:
        raise FormatError("zst.frame", "the frame has no checksum, or needs a dictionary")
    if size > _bound(len(frame)):
        raise FormatError("zst.size", f"{len(frame)} bytes claim to hold {size}")
    if parameters.window_size > MAX_WINDOW:
        raise FormatError("zst.frame", "the frame's window is larger than 8 MiB")
    return _decompress(frame, size)


def _decompress(frame: bytes, size: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    try:
        data = decompressor.decompress(frame)
    except zstandard.ZstdError as error:
        raise FormatError("zst.frame", f"the frame is damaged: {error}") from None
    if not decompressor.eof or decompressor.unused_data:
        raise FormatError("zst.frame", "not exactly one whole frame")
    if len(data) != size:
        raise FormatError("zst.size", f"holds {len(data)} bytes, not the {size} it says")
    return bytes(data)


def _bound(frame_size: int) -> int:
    return _FREE + _RATIO * frame_size
