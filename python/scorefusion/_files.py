"""Files of arrays and JSON: npz without pickle, with a version and the SHA-256 of the content, written atomically.

Loading one runs no code. What is truncated, altered, or no such file is a ValueError that says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import _arguments

_VERSION = 1
_FORMAT = "scorefusion"


def write(path: str | os.PathLike[str], kind: str, meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Writes them whole or not at all."""
    header = json.dumps({**meta, "format": _FORMAT, "kind": kind, "version": _VERSION}, sort_keys=True)
    content = {"json": np.frombuffer(header.encode(), np.uint8), **arrays}
    for name, array in content.items():
        if np.asarray(array).dtype.hasobject:  # savez has its allow_pickle from NumPy 2.1 on: before, one more array
            raise ValueError(f"{name} holds Python objects, which are not written")
    buffer = io.BytesIO()
    np.savez(buffer, **content, sha256=np.frombuffer(digest(content), np.uint8))
    write_whole(path, buffer.getbuffer())


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Whole or not at all, whenever the process dies: apart, flushed to the disk, then renamed."""
    path = Path(_arguments.path("path", path))
    if path.exists() and not path.is_file():
        raise ValueError(f"path must name a file, but {path} is there and is none: it is left as it is")
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:  # the disk is full, say: what was written is in the way
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name too
        finally:
            os.close(folder)


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `write` wrote: (meta, arrays)."""
    with open(_arguments.path("path", path), "rb") as file:
        data = file.read()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            content = {name: archive[name] for name in archive.files}
        written = content.pop("sha256").tobytes()
        meta: dict[str, Any] = json.loads(content["json"].tobytes())
        if meta["format"] != _FORMAT:
            raise KeyError("format")
    except (AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of scorefusion, or is truncated or damaged ({error})") from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a file of scorefusion, or is truncated or damaged ({error})") from None
    if written != digest(content):
        raise ValueError(f"{path} was altered: the SHA-256 of its content is not the one written in it")
    if meta["version"] != _VERSION:
        raise ValueError(f"{path} is of version {meta['version']} of the format; this scorefusion reads {_VERSION}")
    if meta["kind"] != kind:
        raise ValueError(f"{path} holds a {meta['kind']}, not a {kind}")
    del content["json"]
    return meta, content


def digest(content: Mapping[str, Any]) -> bytes:
    """SHA-256 of names, dtypes, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(content):
        array = np.ascontiguousarray(content[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.digest()
