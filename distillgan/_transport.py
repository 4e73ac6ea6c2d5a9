"""The transport form: one zstd frame that holds a whole container (RFC 8878)."""

from __future__ import annotations

import mmap

import zstandard

from .errors import DistillganError, FormatError

MAX_WINDOW = 8 * 1024 * 1024
_CHUNK = 256 * 1024
_FREE = 32 * 1024 * 1024  # bytes that any frame may hold
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


def decompress(frame: bytes) -> memoryview:
    """The container in a frame, in page-aligned memory.

    FormatError `zst.size` for a frame that claims too much, `zst.frame` for any other that is not
    exactly one whole frame as `compress` writes it.
    """
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


def _decompress(frame: bytes, size: int) -> memoryview:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    buffer, position = memoryview(mmap.mmap(-1, max(size, 1)))[:size], 0
    try:
        for start in range(0, len(frame), _CHUNK):
            data = decompressor.decompress(frame[start : start + _CHUNK])
            if position + len(data) > size:
                raise FormatError("zst.frame", f"holds more than the {size} bytes it says")
            buffer[position : position + len(data)] = data
            position += len(data)
            if decompressor.eof and (decompressor.unused_data or start + _CHUNK < len(frame)):
                raise FormatError("zst.frame", "the frame is followed by other bytes")
    except zstandard.ZstdError as error:
        raise FormatError("zst.frame", f"the frame is damaged: {error}") from None
    if not decompressor.eof:
        raise FormatError("zst.frame", "the frame is cut short")
    if position != size:
        raise FormatError("zst.frame", f"holds {position} bytes, not the {size} it says")
    return buffer


def _bound(frame_size: int) -> int:
    return _FREE + _RATIO * frame_size
