"""Tensors on disk: safetensors with a JSON header, never pickle."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT_VERSION = 3  # 2: moments say what they are of; 3: halves, and rows of low rank, as they are kept
READS = ("1", "2", "3")


def save(path: str | os.PathLike[str], kind: str, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write ``tensors`` and ``header`` to ``path``. The old file survives until the new one is complete.

    Raises ``OSError`` (disk full, no permission, ``path`` is a directory); no temporary file stays then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(os.path.realpath(path))  # of a link, what it points to is replaced
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: give a file name")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kind": kind, "version": str(FORMAT_VERSION), "header": json.dumps(header)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        os.close(handle)
        # Copies, because safetensors refuses tensors that share memory, such as two views of one.
        save_file({key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}, temporary, metadata)
        with contextlib.suppress(OSError):  # some network and FUSE file systems refuse chmod
            os.chmod(temporary, _mode(path))  # mkstemp makes files that only their owner can read
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, SafetensorError):
            raise OSError(f"{path} could not be written: {error}") from error
        raise


def load(path: str | os.PathLike[str], kind: str, mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save` wrote, as copies: tensors of safetensors are the file itself, ``mapped`` into memory.

    Raises ``FileNotFoundError``, ``PermissionError``, or ``ValueError`` for a damaged or foreign file.
    """
    from safetensors import safe_open

    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a directory, not a file")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    with path.open("rb"):  # a file that may not be read is not a damaged one
        pass
    with damaged(path, "or not a safetensors file"):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found, version = metadata.get("kind", "something else"), metadata.get("version")
            if found == kind and version in READS:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
                if not mapped:
                    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        if found == kind and version in READS:
            header = json.loads(metadata["header"], object_pairs_hook=_once)
            if not isinstance(header, dict):
                raise ValueError("its header is no dict")
            if not all(tensor.is_floating_point() for tensor in tensors.values()):
                raise ValueError("it has tensors that are no floating-point numbers")
            return tensors, header
    if found != kind:
        raise ValueError(f"{path} holds {found!r}, not {kind!r}")
    raise ValueError(f"{path} has format version {version}, this engramlib reads {' and '.join(READS)}")


def on_disk(folder: str | os.PathLike[str], length: int, dtype: torch.dtype) -> Tensor:
    """``length`` zeros that live in a nameless file of ``folder``: what is not in use need not stay in memory.

    Raises ``OSError`` where there is no such folder or not enough room. The file goes with the tensor.
    """
    handle, path = tempfile.mkstemp(dir=folder, prefix=".engramlib.")
    try:
        if hasattr(os, "posix_fallocate"):  # room now, or an error: a full disk would later kill the process
            os.posix_fallocate(handle, 0, max(1, length * dtype.itemsize))
        return torch.from_file(path, shared=True, size=length, dtype=dtype)
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # where a mapped file cannot go, it stays until somebody clears the folder
            os.unlink(path)


@contextlib.contextmanager
def damaged(path: str | os.PathLike[str], otherwise: str = "") -> Iterator[None]:
    """Whatever goes wrong while the contents of a file are made sense of is a ``ValueError`` that names the file."""
    try:
        yield
    except Exception as error:  # a file from elsewhere can provoke anything: a KeyError, a MemoryError, ...
        raise ValueError(f"{os.fspath(path)} is damaged {otherwise}: {error}".replace(" :", ":")) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has one name twice")
    return found


def _mode(path: Path) -> int:
    """The permissions that the file has, or that a new one would have."""
    with contextlib.suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush(path: str) -> None:
    """To the disk, so that a power cut after the replacement finds the new file complete."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(handle)
