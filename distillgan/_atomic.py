"""A save happens or does not: drafts beside their target, synced, then moved in one step."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .errors import DistillganError

_LOCK_NAME = ".model_library.lock"
_LOCK_SECONDS = 30
_HAS_PREAD = hasattr(os, "pread")
_SEEKING = threading.Lock()
_CHUNK = 4 * 1024 * 1024
_BUFFER = 1024 * 1024
_SPAN = 64 * 1024
_MAX_VECTOR = 1024  # IOV_MAX on every system that has writev
_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EACCES}
)
_NO_KERNEL_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF}
)


class Identity(NamedTuple):
    """What tells one state of a file from another."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class Draft:
    """A file under construction; it becomes the target or it disappears."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path = path
        self.file = file

    def replace(self, target: Path, *, expected: Identity | None = None) -> None:
        """Take the place of `target`, which must still be what `expected` says, if given."""
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(target).st_mode
            if not stat.S_ISREG(mode):
                problem = "is no regular file, and stays: give another name"
                raise OSError(errno.EINVAL, problem, os.fspath(target))
            if os.name != "nt":  # there, a draft that cannot be written to cannot be moved either
                os.chmod(self.path, stat.S_IMODE(mode))
        self._finish()
        if expected is not None and identity(target) != expected:
            raise DistillganError(
                f"{target} was changed by another program in the meantime; nothing was written."
            )
        os.replace(self.path, target)
        sync_folder(target.parent)

    def claim(self, candidates: Iterable[Path]) -> Path:
        """Take the first candidate name that nothing has yet, and return it."""
        self._finish()
        target = self.path
        for target in candidates:
            with contextlib.suppress(FileExistsError):
                _move_new(self.path, target)
                sync_folder(target.parent)
                return target
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))

    def _finish(self) -> None:
        self.file.flush()
        _sync(self.file.fileno())
        self.file.close()


@contextlib.contextmanager
def draft(folder: Path) -> Iterator[Draft]:
    """Open a new hidden file in `folder` for writing and reading; remove it unless it was moved."""
    path = folder / f".{os.urandom(8).hex()}.tmp"
    try:
        with _create(path) as file:
            yield Draft(path, file)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _create(path: Path) -> BinaryIO:
    try:
        return open(path, "x+b", buffering=_BUFFER)
    except OSError as error:
        error.filename = os.fspath(path.parent)  # the draft's own name means nothing to anybody
        raise


def identity(target: str | os.PathLike[str] | int) -> Identity:
    """Device, inode, size and mtime of a path or descriptor."""
    status = os.stat(target)
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _sync(fd: int) -> None:
    """Bring a file's bytes to the disk itself; macOS's fsync stops at the disk's cache."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # a file system that does not know it
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system lets a folder be synced."""
    if os.name == "nt":
        return
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable and not readable
        return
    try:
        _sync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def copy_range(source: int, offset: int, length: int, target: BinaryIO) -> None:
    """Copy bytes from a descriptor to the position of `target`, inside the kernel if it can."""
    target.flush()
    done = _kernel_copy(source, offset, length, target) if hasattr(os, "copy_file_range") else 0
    while done < length:
        chunk = read_at(source, offset + done, min(_CHUNK, length - done))
        if not chunk:
            raise DistillganError("The file became shorter while it was being copied.")
        target.write(chunk)
        done += len(chunk)


def write_all(file: BinaryIO, buffers: Sequence[memoryview]) -> None:
    """Write buffers one after the other, without copying them together where the system can."""
    if not hasattr(os, "writev"):
        file.writelines(buffers)
        return
    file.flush()
    pending = [buffer for buffer in buffers if buffer.nbytes]
    while pending:
        count = os.writev(file.fileno(), pending[:_MAX_VECTOR])
        while pending and count >= pending[0].nbytes:
            count -= pending.pop(0).nbytes
        if count:
            pending[0] = pending[0][count:]
    file.seek(os.lseek(file.fileno(), 0, os.SEEK_CUR))


def read_at(fd: int, offset: int, length: int) -> bytes:
    """At most `length` bytes of a descriptor from `offset` on."""
    if _HAS_PREAD:
        return os.pread(fd, length, offset)
    with _SEEKING:  # Windows: threads that read one file share its position
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


def read_at_into(fd: int, offset: int, buffer: memoryview) -> int:
    """Fill a buffer from `offset` on as far as one call of the system goes; return the count."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    data = read_at(fd, offset, min(_CHUNK, len(buffer)))
    buffer[: len(data)] = data
    return len(data)


@contextlib.contextmanager
def library_lock(folder: Path, *, timeout: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of a library folder, which other processes respect.

    Raises TimeoutError when it was not to be had in `timeout` seconds, OSError when the folder
    cannot hold a lock.
    """
    from filelock import FileLock  # 17 ms that only writing an index, or a FAT disk, should cost

    with FileLock(folder / _LOCK_NAME, timeout=timeout):
        yield


def _kernel_copy(source: int, offset: int, length: int, target: BinaryIO) -> int:
    """Bytes that copy_file_range moved; fewer than `length` where it is not supported."""
    start, done = target.tell(), 0
    try:
        while done < length:
            # Copies that begin at 8 KiB get small page-cache folios: first up to a whole span.
            step = min(-(start + done) % _SPAN or length, length - done)
            copied = os.copy_file_range(source, target.fileno(), step, offset + done, start + done)
            if copied == 0:
                break
            done += copied
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    target.seek(start + done)
    return done


def _move_new(path: Path, target: Path) -> None:
    """Give `path` the name `target`; FileExistsError if something has it."""
    if os.name == "nt":
        os.rename(path, target)
        return
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS or isinstance(error, FileExistsError):
            raise
        _move_locked(path, target)
    else:
        os.unlink(path)


def _move_locked(path: Path, target: Path) -> None:
    with library_lock(target.parent):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        os.rename(path, target)
