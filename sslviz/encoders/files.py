"""Reading a checkpoint file that somebody else made, without running anything it says."""

import argparse
import math
import pathlib
import pickle
import re
import threading
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sslviz.errors import InputError, NotFound, Untrusted, in_one_line

_REPEATED = 2 << 30
"""Bytes that tensors which share or repeat their values may take when they are laid out one by one."""
_ADVICE = "Save its weights where you trust it: torch.save(model.state_dict(), ...) or safetensors."
_reading = threading.Lock()
"""torch's list of what is allowed is the whole process'."""


class FileContent(NamedTuple):
    """tensors by dotted path (`state_dict.module.conv1.weight`), everything else by top-level key, and the container's name."""

    tensors: dict[str, torch.Tensor]
    other: dict[str, Any]
    container: str


def read_file(path: Path) -> FileContent:
    """Read tensors from .safetensors or a torch file. Raises NotFound, InputError saying what the file is instead, Untrusted."""
    if not path.exists():
        raise NotFound(f"no file {path}. Check the path; it is read on the machine that runs sslviz.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a checkpoint file (.pth, .pt, .ckpt, .tar, .safetensors).")
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(4096)
    _refuse_what_is_no_checkpoint(path, head, size)
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and head[:2] not in {b"PK", b"\x80\x02"}):
        return _read_safetensors(path)
    return _read_torch(path, head)


def _refuse_what_is_no_checkpoint(path: Path, head: bytes, size: int) -> None:
    text = head.lstrip().lower()
    what = ""
    if size == 0:
        what = "empty"
    elif text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        what = "an HTML page, probably a failed download"
    elif text.startswith(b"version https://git-lfs"):
        what = "a git-lfs pointer, not the file itself; run git lfs pull"
    elif head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM")) or head[8:12] == b"WEBP":
        what = "a picture"
    elif head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"BZh")):
        what = "a compressed archive; unpack it first"
    elif head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if not any(name.endswith("data.pkl") for name in names):
                    what = f"a zip archive without weights (it holds {', '.join(names[:3]) or 'nothing'})"
                elif any("/code/" in name for name in names):
                    raise Untrusted(f"{path} is a TorchScript program, not only tensors, and was not loaded. {_ADVICE}")
                parts = archive.infolist()
                if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > size:
                    what = "a zip archive of another kind: what torch saves is not compressed"
                elif damaged := archive.testzip():
                    what = f"damaged: the checksum of {damaged} inside it is wrong; download it again"
        except (RuntimeError, NotImplementedError):
            what = "a zip archive with a password or an unusual compression"
        except zipfile.BadZipFile:
            what = f"cut off: {size:,} bytes, its end is missing; download it again"
    elif _is_text(head):
        what = "a text file, not a checkpoint"
    if what:
        raise InputError(f"{path} is {what}.")


def _read_safetensors(path: Path) -> FileContent:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as handle:
            return FileContent(
                {name: handle.get_tensor(name) for name in handle.keys()},  # noqa: SIM118 (not a dict)
                dict(handle.metadata() or {}),
                "safetensors",
            )
    except SafetensorError as error:
        raise InputError(f"{path} is not a complete safetensors file ({str(error)[:120]}); download it again.") from None


def _read_torch(path: Path, head: bytes) -> FileContent:
    try:
        with _reading, torch.serialization.safe_globals(_harmless()):
            content = _arrays_themselves(torch.load(path, map_location="cpu", weights_only=True), set())
    except pickle.UnpicklingError as error:
        raise _refusal(path, head, error) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} is not a checkpoint that torch can read ({type(error).__name__}: {_first_sentence(error)})."
        ) from None
    tensors: dict[str, torch.Tensor] = {}
    other: dict[str, Any] = {}
    if isinstance(content, torch.Tensor):
        content = {"tensor": content}
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; expected a dictionary of tensors.")
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            tensors[str(key)] = value
        elif isinstance(value, dict) and not str(key).startswith(("optimizer", "lr_schedulers", "loops", "callbacks")):
            _flatten(f"{key}.", value, tensors, depth=3)
            other[str(key)] = value
        else:
            other[str(key)] = value
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
            raise InputError(f"{path}: {name} is not a plain tensor (sparse, quantised, nested or without values). {_ADVICE}")
    spread = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if spread > max(2 * path.stat().st_size, _REPEATED):
        raise InputError(f"{path}: its tensors would take {spread / 1e9:,.0f} GB, since they repeat fewer values. {_ADVICE}")
    container = "PyTorch Lightning" if "pytorch-lightning_version" in content else "torch"
    return FileContent(tensors, other, container)


def _flatten(lead: str, values: dict[Any, Any], into: dict[str, torch.Tensor], depth: int) -> None:
    for key, value in values.items():
        if isinstance(value, torch.Tensor):
            into[f"{lead}{key}"] = value
        elif isinstance(value, dict) and depth:
            _flatten(f"{lead}{key}.", value, into, depth - 1)


class _Dtype:
    """Stands for numpy.dtype while a file is read. NumPy's own, made up by a file, can point anywhere in memory."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[?bBhHiIlLqQefd]|b1|[iuf][1248]|c(8|16)|[SU]\d{1,6}|O8?", code):
            raise pickle.UnpicklingError(f"NumPy numbers of the kind {str(code)[:20]!r}")
        self.code = code
        self.order: Any = "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|") or any(state[2:5]):
            raise pickle.UnpicklingError("NumPy numbers of an unknown kind")
        self.order = state[1]

    def values(self, content: Any, n: int) -> Any:
        """n values out of bytes; of Python objects, which a file may hold too, the list of them."""
        if self.code.startswith("O"):
            return content
        if not isinstance(content, bytes):
            raise pickle.UnpicklingError("NumPy numbers without their bytes")
        kind = np.dtype(self.code)
        try:
            return np.frombuffer(content, kind if self.order in "|=" else kind.newbyteorder(self.order), n)
        except ValueError as error:
            raise pickle.UnpicklingError(f"NumPy numbers of another size ({error})") from None


class _Array:
    """Stands for numpy.ndarray while a file is read; `value` is the array, or the list where it held objects."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise pickle.UnpicklingError("a NumPy array of an unknown kind")
        _, shape, kind, by_columns, content = state
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise pickle.UnpicklingError("a NumPy array of no shape")
        found = kind.values(content, math.prod(shape))
        if isinstance(found, np.ndarray):
            found = found.reshape(shape, order="F" if by_columns else "C").copy()
        self.value = found


def _new_array(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("a NumPy array of an unknown kind")
    return _Array()


def _number(kind: Any, content: Any = b"") -> Any:
    if not isinstance(kind, _Dtype):
        raise pickle.UnpicklingError("a NumPy number of an unknown kind")
    found = kind.values(content, 1)
    return found[0] if isinstance(found, np.ndarray) else found


def _arrays_themselves(value: Any, seen: set[int]) -> Any:
    """The same content with arrays in the place of what stands for them."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict | list | tuple | argparse.Namespace) and id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, tuple):
            return tuple(_arrays_themselves(part, seen) for part in value)
        parts: Any = vars(value) if isinstance(value, argparse.Namespace) else value
        for key in list(parts) if isinstance(parts, dict) else range(len(parts)):
            parts[key] = _arrays_themselves(parts[key], seen)
    return value


def _harmless() -> list[Any]:
    """The fixed allow-list: plain records, paths, and NumPy numbers and arrays, made by us (docs/formats.md)."""
    return [
        argparse.Namespace,
        *(
            (pathlib.PurePosixPath, f"{module}.{kind}")
            for module in ("pathlib", "pathlib._local")
            for kind in ("PosixPath", "PurePosixPath")
        ),
        *(
            (pathlib.PureWindowsPath, f"{module}.{kind}")
            for module in ("pathlib", "pathlib._local")
            for kind in ("WindowsPath", "PureWindowsPath")
        ),
        *((_number, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
        *((_new_array, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")),
        (_Array, "numpy.ndarray"),
        (_Dtype, "numpy.dtype"),
    ]


def _refusal(path: Path, head: bytes, error: pickle.UnpicklingError) -> InputError:
    names: list[str] = []
    if head.startswith(b"PK"):
        with _reading, torch.serialization.safe_globals(_harmless()):
            try:
                names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
            except Exception:  # what can be wrong with a pickle is anything
                raise InputError(f"{path} is damaged: its list of tensors cannot be read; download it again.") from None
    if any(name.startswith("torch.nn.modules") for name in names):
        foreign = [n for n in names if not n.startswith(("torch.", "collections."))] or names
        return Untrusted(
            f"{path} holds a whole pickled module ({', '.join(foreign[:3])}), not only tensors, and was not loaded. "
            f"Where you trust it: save model.state_dict() and try again."
        )
    if any(name.endswith("exclude_bias_and_norm") for name in names):
        return Untrusted(
            f"{path} holds a Python function of VICReg's or Barlow Twins' training code and was not loaded. "
            f"Their authors also offer the backbone alone: sslviz encoders add NAME vicreg (or barlow-twins)"
        )
    if names:
        return Untrusted(f"{path} holds Python code ({', '.join(names[:3])}), not only tensors, and was not loaded. {_ADVICE}")
    if "GLOBAL" in str(error) or "Unsupported" in str(error):
        return Untrusted(f"{path} holds more than tensors ({_first_sentence(error)}) and was not loaded. {_ADVICE}")
    return InputError(f"{path} is not a checkpoint ({_first_sentence(error)}).")


def _is_text(head: bytes) -> bool:
    beginning = head.decode(errors="replace").rstrip("\ufffd")  # a character may be cut in two
    return "\ufffd" not in beginning and all(c.isprintable() or c.isspace() for c in beginning)


def _first_sentence(error: BaseException) -> str:
    return in_one_line(error).split(". ")[0]
