"""Embeddings in a file that another program made: .npy, .npz, .pt, Parquet, HDF5. Nothing that the file says is run."""

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslviz.errors import InputError, NotFound, SslvizError, Untrusted, shown

MATRIX = ("h", "H", "embeddings", "embedding", "features", "X")
"""How the embeddings may be called; the first of these that is there."""
BESIDE = {"ids": ("ids", "id", "sample_id"), "labels": ("labels", "label"), "splits": ("splits", "split")}
"""How what stands beside them may be called."""
_PARQUET_ROWS = 16_384


class Arrays(NamedTuple):
    """Embeddings [N, D] as the file has them, and the ids, labels and splits it holds; `notes` say what was taken by guess."""

    H: np.ndarray
    ids: list[Any] | None = None
    labels: list[Any] | None = None
    splits: list[Any] | None = None
    notes: tuple[str, ...] = ()


def read_arrays(path: Path, most: float = math.inf) -> Arrays:
    """Read the embeddings of a file by one of the names of `MATRIX`, and what stands beside them; all else in it is left alone.

    Of a Parquet file the embeddings are a column of lists of D numbers, of that name or the only one; where it has none, all
    columns of numbers but ids, labels, splits and the index, and a note says so. Of an HDF5 file, data sets at its root; links
    are not followed. most: bytes that the embeddings may take.
    Raises NotFound; InputError: another kind of file, cut off, no embeddings, too large; Untrusted: it holds Python objects, or
    points to other files.
    """
    if not path.is_file():
        raise NotFound(f"no file {path}.")
    kind, read = "array", None
    try:
        kind, read = _reader(path)
        return read(path, most)
    except SslvizError:
        raise
    except Exception as error:  # five libraries, each with errors of its own for a file that is cut off
        raise InputError(f"{path} is not a complete {kind} file ({' '.join(str(error).split())[:100]}).") from None


def read_column(path: Path) -> list[Any]:
    """One value a sample, from .npy or a text file with one a line. Raises NotFound, InputError."""
    if not path.is_file():
        raise NotFound(f"no file {path}.")
    with path.open("rb") as handle:
        is_array = handle.read(6) == b"\x93NUMPY"
    if is_array:
        return _values(_numpy(path, math.inf).H, path.name)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is neither .npy nor text with one value a line.") from None


def _reader(path: Path) -> tuple[str, Callable[[Path, float], Arrays]]:
    with path.open("rb") as handle:
        head = handle.read(8)
    if head.startswith(b"\x93NUMPY"):
        return ".npy", _numpy
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            return (".pt", _torch) if any(name.endswith("data.pkl") for name in archive.namelist()) else (".npz", _npz)
    if head.startswith(b"PAR1"):
        return "Parquet", _parquet
    if head.startswith(b"\x80"):
        return ".pt", _torch
    import h5py

    if h5py.is_hdf5(path):  # also one that begins with a block of its writer's own, as MATLAB's do
        return "HDF5", _hdf5
    if head == b"\x89HDF\r\n\x1a\n":
        raise InputError(f"{path} is not a complete HDF5 file.")
    raise InputError(f"{path} is no .npy, .npz, .pt, Parquet or HDF5 file.")


def _numpy(path: Path, most: float) -> Arrays:
    with path.open("rb") as handle:
        _check_header(path, handle, most)
    return Arrays(_plain(path, lambda: np.load(path, allow_pickle=False)))


def _npz(path: Path, most: float) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:

        def array(name: str) -> np.ndarray:
            if f"{name}.npy" in archive.zip.namelist():
                with archive.zip.open(f"{name}.npy") as handle:
                    _check_header(path, handle, most)
            return _plain(path, lambda: archive[name])

        return _picked(path, archive.files, array)


def _check_header(path: Path, handle: Any, most: float) -> None:
    """By what an array says of itself: nothing of that size is made first."""
    version = np.lib.format.read_magic(handle)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(handle)
    _check_size(path, math.prod(shape) * dtype.itemsize, most)


def _plain(path: Path, load: Callable[[], Any]) -> np.ndarray:
    try:
        array: np.ndarray = load()
    except ValueError as error:
        if "Object arrays" in str(error):
            raise Untrusted(
                f"{path} holds Python objects, not only numbers, and was not loaded. Save plain arrays (ids as str_)."
            ) from None
        raise
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds {type(array).__name__} where arrays are expected.")
    return array


def _torch(path: Path, most: float) -> Arrays:
    from sslviz.encoders.files import read_file

    content = read_file(path)
    beside = {name: value for name, value in content.other.items() if isinstance(value, list | tuple | np.ndarray)}

    def array(name: str) -> Any:
        tensor = content.tensors.get(name)
        if tensor is None:
            return np.asarray(beside[name])
        _check_size(path, tensor.numel() * max(4, tensor.element_size()), most)
        if tensor.is_floating_point() and tensor.element_size() < 4:
            tensor = tensor.float()
        return tensor.numpy(force=True)

    if list(content.tensors) == ["tensor"]:
        return Arrays(array("tensor"))
    return _picked(path, [*content.tensors, *beside], array)


def _hdf5(path: Path, most: float) -> Arrays:
    import h5py

    with h5py.File(path, "r") as file:
        names = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        names = [name for name in names if isinstance(file[name], h5py.Dataset)]

        def array(name: str) -> Any:
            found = file[name]
            if found.external or found.is_virtual:
                raise Untrusted(
                    f'{path}, "{name}": its values are gathered from elsewhere (external or virtual), and it was not read. '
                    "Save them in it."
                )
            _check_size(path, found.size * found.dtype.itemsize if found.shape else 0, most)
            if h5py.check_string_dtype(found.dtype):
                return np.asarray(found.asstr("utf-8")[()])
            values = np.asarray(found[()])
            codes = h5py.check_enum_dtype(found.dtype)
            if codes is None:
                return values
            words = {code: word for word, code in codes.items()}
            return np.asarray([words[code] for code in values.ravel().tolist()], dtype=str)

        return _picked(path, names, array)


def _picked(path: Path, names: Iterable[str], array: Callable[[str], Any]) -> Arrays:
    names = list(names)
    matrix = next((name for name in MATRIX if name in names), None)
    if matrix is None:
        raise InputError(f"{path} holds {shown(names) or 'nothing'}; expected an array named {', '.join(MATRIX)}.")
    beside = {key: next((n for n in known if n in names), None) for key, known in BESIDE.items()}
    return Arrays(
        array(matrix),
        **{key: _values(array(name), f"{path}, {name}") for key, name in beside.items() if name is not None},  # type: ignore[arg-type]
    )


def _values(array: np.ndarray, what: str) -> list[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{what} has shape {array.shape}; expected one value a row.")
    values: list[Any] = array.tolist()
    return values


def _parquet(path: Path, most: float) -> Arrays:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        if file.metadata.num_rows == 0:
            raise InputError(f"{path} has no rows.")
        beside = {key: next((n for n in known if n in schema.names), None) for key, known in BESIDE.items()}
        chosen, note = _parquet_matrix(path, schema, {name for name in beside.values() if name is not None})
        columns = {
            key: [value for part in _batches(file, [name]) for value in part.column(0).to_pylist()]
            for key, name in beside.items()
            if name is not None
        }
        parts: list[np.ndarray] = []
        for part in _batches(file, chosen):
            parts.append(_rows_of(path, part, parts[0].shape[1] if parts else None))
            _check_size(path, parts[0].nbytes / len(parts[0]) * file.metadata.num_rows, most)
        return Arrays(np.concatenate(parts), notes=(note,) if note else (), **columns)


def _batches(file: Any, columns: list[str]) -> Iterator[Any]:
    return (part for part in file.iter_batches(_PARQUET_ROWS, columns=columns) if len(part))


def _parquet_matrix(path: Path, schema: Any, beside: set[str]) -> tuple[list[str], str]:
    """(the columns that are the embeddings, what has to be said of that)."""
    import pyarrow as pa

    lists = [field.name for field in schema if _listed(field.type) and field.name not in beside]
    named = next((name for name in MATRIX if name in lists), None)
    if named is not None:
        return [named], ""
    if len(lists) == 1:
        return lists, f'column "{lists[0]}" is taken as the embeddings'
    if lists:
        raise InputError(f"{path} has several columns of lists ({shown(lists)}); name that of the embeddings {MATRIX[2]}.")
    index = {name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)}
    numbers = [f.name for f in schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    numbers = [name for name in numbers if name not in beside | index]
    if not numbers:
        raise InputError(f"{path} has no column of lists and none of numbers (it has {shown(schema.names)}).")
    return numbers, f"the {len(numbers)} columns of numbers ({shown(numbers)}) are taken as the embeddings"


def _listed(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return bool(pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def _rows_of(path: Path, part: Any, expected: int | None) -> np.ndarray:
    import pyarrow as pa

    if not _listed(part.schema.types[0]):
        return np.stack([column.to_numpy(zero_copy_only=False) for column in part.columns], axis=1)
    lists = part.column(0)
    if isinstance(lists.type, pa.BaseExtensionType):
        lists = lists.storage
    width = lists.type.list_size if pa.types.is_fixed_size_list(lists.type) else lists.value_lengths()[0].as_py()
    values = lists.flatten()
    ragged = not pa.types.is_fixed_size_list(lists.type) and len(lists.value_lengths().unique()) > 1
    if lists.null_count or ragged or width != (expected or width) or not width:
        raise InputError(
            f'{path}, column "{part.schema.names[0]}": lists are missing or of unequal length; expected D numbers in each row.'
        )
    rows: np.ndarray = values.to_numpy(zero_copy_only=False).reshape(len(lists), width)
    return rows


def _check_size(path: Path, size: float, most: float) -> None:
    if size > most:
        raise InputError(f"{path}: the embeddings take {size / 1e9:,.1f} GB; {most / 1e9:,.1f} GB of memory are free for them.")
