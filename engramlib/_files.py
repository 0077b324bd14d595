"""Tensors on disk: safetensors with a JSON header, never pickle."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

FORMAT_VERSION = 1


def save(path: str | os.PathLike[str], kind: str, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write ``tensors`` and ``header`` to ``path``. The old file survives until the new one is complete."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kind": kind, "version": str(FORMAT_VERSION), "header": json.dumps(header)}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        # Copies, because safetensors refuses tensors that share memory, such as two views of one.
        save_file({key: t.detach().cpu().contiguous().clone() for key, t in tensors.items()}, temporary, metadata)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save` wrote. Raises ``FileNotFoundError``, or ``ValueError`` for a damaged or foreign file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        header = json.loads(metadata.get("header", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    if metadata.get("kind") != kind or not isinstance(header, dict):
        raise ValueError(f"{path} holds {metadata.get('kind', 'something else')!r}, not {kind!r}")
    if metadata.get("version") != str(FORMAT_VERSION):
        raise ValueError(f"{path} has format version {metadata.get('version')}, this engramlib reads {FORMAT_VERSION}")
    return tensors, header
