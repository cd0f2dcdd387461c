"""Arrays in a file that somebody else made: .npy, .npz, .pt, Parquet, HDF5. Nothing that the file says is run."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sslviz.errors import InputError, NotFound, Untrusted

MATRIX = ("h", "H", "embeddings", "embedding", "features", "X")
"""How the embeddings may be called; the first of these that is there."""
BESIDE = {"ids": ("ids", "id", "sample_id"), "labels": ("labels", "label"), "splits": ("splits", "split")}
"""How what stands beside them may be called."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; an array without a name is called h.

    Of a Parquet file, a column of equally long lists is a matrix; where it has none of these names, all columns of numbers but
    ids, labels and splits are h. Of an HDF5 file, the data sets at its root; links are not followed.
    Raises NotFound; InputError: another kind of file, cut off; Untrusted: it holds Python objects, or points to other files.
    """
    if not path.is_file():
        raise NotFound(f"no file {path}.")
    kind, read = _reader(path)
    try:
        return read(path)
    except (Untrusted, InputError):
        raise
    except Exception as error:  # five libraries, each with errors of its own for a file that is cut off
        raise InputError(f"{path} is not a complete {kind} file ({' '.join(str(error).split())[:100]}).") from None


def _reader(path: Path) -> tuple[str, Callable[[Path], dict[str, np.ndarray]]]:
    with path.open("rb") as handle:
        head = handle.read(8)
    if head.startswith(b"\x93NUMPY"):
        return ".npy", _numpy
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                torch_file = any(name.endswith("data.pkl") for name in archive.namelist())
        except zipfile.BadZipFile:
            raise InputError(f"{path} is not a complete .npz or .pt file (its end is missing).") from None
        return (".pt", _torch) if torch_file else (".npz", _numpy)
    if head.startswith(b"PAR1"):
        return "Parquet", _parquet
    if head == b"\x89HDF\r\n\x1a\n":
        return "HDF5", _hdf5
    if head.startswith(b"\x80"):
        return ".pt", _torch
    raise InputError(f"{path} is no .npy, .npz, .pt, Parquet or HDF5 file.")


def _numpy(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"h": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except ValueError as error:
        if "pickle" in str(error):
            raise Untrusted(
                f"{path} holds Python objects, not only numbers, and was not loaded. Save plain arrays (ids as str_)."
            ) from None
        raise


def _torch(path: Path) -> dict[str, np.ndarray]:
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Untrusted(
            f"{path} holds Python objects, not only tensors, and was not loaded. Save tensors, or a dict of tensors and lists."
        ) from None

    def array(value: Any) -> np.ndarray:
        if not isinstance(value, torch.Tensor):
            return np.asarray(value)
        widened: np.ndarray = (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        return widened

    if not isinstance(loaded, dict):
        return {"h": array(loaded)}
    return {str(name): array(value) for name, value in loaded.items() if isinstance(value, torch.Tensor | list)}


def _parquet(path: Path) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    arrays: dict[str, np.ndarray] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
        if not listed:
            arrays[name] = column.to_numpy()
            continue
        lists = column.combine_chunks()
        if lists.null_count or len(set(lists.value_lengths().to_pylist())) > 1:
            raise InputError(f'{path}, column "{name}": lists are missing or of unequal length; expected D numbers in each row.')
        arrays[name] = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)
    if not any(name in arrays for name in MATRIX):
        beside = {name: arrays[name] for names in BESIDE.values() for name in names if name in arrays}
        rest = [values for name, values in arrays.items() if name not in beside and not name.startswith("__index_level_")]
        numbers = [values for values in rest if values.ndim == 1 and values.dtype.kind in "fiu"]
        if numbers:
            return {**beside, "h": np.stack(numbers, axis=1)}
    return arrays


def _hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    arrays = {}
    with h5py.File(path, "r") as file:
        for name in file:
            found = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
            if not isinstance(found, h5py.Dataset):
                continue
            if found.external or found.is_virtual:
                raise Untrusted(f'{path}, "{name}": its numbers lie in another file, and it was not read. Save them in this one.')
            arrays[name] = found.asstr()[()] if h5py.check_string_dtype(found.dtype) else found[()]
    return arrays
