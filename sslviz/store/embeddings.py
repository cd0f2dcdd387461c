"""Embeddings on disk: a zarr array, the rows' ids, and, kept apart from the chunk files, what has been done.

embeddings.zarr      float[N, D], chunks of at most 16 MB, fill value NaN (a chunk that is lost reads as NaN, never as zeros)
plan.parquet         sample_id, row: where every sample belongs, written before the work begins
parts/<chunk>.parquet  what was read for a chunk's rows: sample_id, row, sha256, size, mtime_ns, width, height, error, remark
done.json            chunk -> digest of its values; a chunk counts as done only when it stands here
rows.parquet         sample_id, row, sha256 of the samples that have an embedding, written when all chunks are done
meta.json            what the numbers depend on: encoder, precision, dtype; `fingerprint` once complete
"""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from sslviz.errors import UNREAD, InputError, NotFound, Stale, in_one_line
from sslviz.store.files import read_json, read_table, write_json, write_table
from sslviz.store.fingerprints import fingerprint

CHUNK_BYTES = 16 << 20
PART_COLUMNS = ["sample_id", "row", "sha256", "size", "mtime_ns", "width", "height", "error", "remark"]


class EmbeddingStore:
    """One encoder's embeddings of one data set. Readers use `read`; the one writer uses `begin`, `write_chunk`, `finish`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"embeddings of {folder.parent.name} by {folder.name}"
        self.remedy = f"sslviz embed --dataset {folder.parent.name} --encoder {folder.name}"

    @property
    def meta(self) -> dict[str, Any]:
        """Raises NotFound where nothing was ever embedded."""
        path = self.folder / "meta.json"
        if not path.exists():
            raise NotFound(f"no {self.name} yet. Compute them: {self.remedy}")
        meta: dict[str, Any] = read_json(path)
        return meta

    @property
    def complete(self) -> bool:
        return (self.folder / "meta.json").exists() and bool(self.meta.get("fingerprint"))

    def done(self) -> dict[int, str]:
        path = self.folder / "done.json"
        return {int(k): v for k, v in read_json(path).items()} if path.exists() else {}

    # ---- writing

    def goes_on(self, depends: dict[str, Any]) -> bool:
        """Whether `begin` would keep what is here, or nothing is here."""
        path = self.folder / "meta.json"
        return not path.exists() or bool(read_json(path)["depends"] == depends)

    def begin(
        self, depends: dict[str, Any], width: int, dtype: str, chunk_rows: int | None, samples: pd.DataFrame
    ) -> pd.DataFrame:
        """Make or take up the store for these samples (sample_id, size, mtime_ns); returns the plan with a column `todo`.

        Rows that are done and unchanged are kept when everything in `depends` is as before; else all is computed anew.
        """
        most = max(1, CHUNK_BYTES // (width * np.dtype(dtype).itemsize))
        rows_per_chunk = chunk_rows or min(most, max(256, len(samples) // 20))  # what a stopped run loses: 5 % at most
        meta: dict[str, Any] = {"depends": depends, "width": width, "dtype": dtype, "chunk_rows": rows_per_chunk}
        old = read_json(self.folder / "meta.json") if (self.folder / "meta.json").exists() else None
        if old is not None and old["depends"] == depends:
            meta["chunk_rows"] = old["chunk_rows"]  # of a store that is there, it stays
        if old is not None and {k: old.get(k) for k in meta} != meta:
            shutil.rmtree(self.folder)
            old = None
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self._plan(samples)
        n_rows = int(plan["row"].max()) + 1
        write_json(self.folder / "meta.json", {**meta, "n_rows": n_rows, "fingerprint": ""})
        write_table(self.folder / "plan.parquet", plan[["sample_id", "row"]])
        whole_chunks = -(-n_rows // meta["chunk_rows"]) * meta["chunk_rows"]  # so that a chunk is always whole on disk
        array = self._open_or_make(whole_chunks, meta)
        if array.shape[0] < whole_chunks:
            array.resize((whole_chunks, width))
        return self._mark_todo(plan, meta["chunk_rows"])

    def _plan(self, samples: pd.DataFrame) -> pd.DataFrame:
        """Every sample keeps the row it had; new ones take the rows of those that went, then further ones."""
        plan = samples[["sample_id", "size", "mtime_ns"]].copy()
        path = self.folder / "plan.parquet"
        known: dict[Any, Any] = dict(read_table(path).itertuples(index=False)) if path.exists() else {}
        rows = plan["sample_id"].map(known)
        taken = set(rows.dropna().astype(int))
        free = (r for r in range(len(plan) + len(known)) if r not in taken)
        plan["row"] = [next(free) if pd.isna(r) else int(r) for r in rows]
        return plan.sort_values("row", ignore_index=True)

    def _open_or_make(self, n_rows: int, meta: dict[str, Any]) -> Any:
        path = self.folder / "embeddings.zarr"
        shape, chunks = (n_rows, meta["width"]), (meta["chunk_rows"], meta["width"])
        options: dict[str, Any] = {"shape": shape, "chunks": chunks, "dtype": meta["dtype"], "fill_value": float("nan")}
        if not (path / "zarr.json").exists() and (path / "c").exists():  # its metadata was lost, the chunks are there
            made = self.folder / "made.zarr"
            zarr.create_array(made, overwrite=True, **options)
            (made / "zarr.json").replace(path / "zarr.json")
            shutil.rmtree(made)
        if not (path / "zarr.json").exists():
            (self.folder / "done.json").unlink(missing_ok=True)
            return zarr.create_array(path, **options)
        return zarr.open_array(path, mode="r+")

    def _mark_todo(self, plan: pd.DataFrame, chunk_rows: int) -> pd.DataFrame:
        chunk = plan["row"] // chunk_rows
        whole = {k for k, digest in self.done().items() if not digest or self._chunk_file(k).exists()}
        parts = [self.part(k) for k in sorted(whole) if (self.folder / "parts" / f"{k}.parquet").exists()]
        if not parts:
            return plan.assign(chunk=chunk, todo=True)
        parts_read = pd.concat(parts)
        unread = parts_read["error"].str.startswith(UNREAD)  # by no fault of the picture: tried again
        known = parts_read.loc[~unread, ["sample_id", "row", "size", "mtime_ns"]].assign(known=True)
        joined = plan.merge(known, on=["sample_id", "row", "size", "mtime_ns"], how="left")
        plan = plan.assign(chunk=chunk, todo=joined["known"].isna().to_numpy())
        for k in plan.loc[plan["todo"], "chunk"].unique():  # these are written again: what they keep must be sound
            if k in whole and not self._is_sound(int(k)):
                self.forget([int(k)])
                plan.loc[plan["chunk"] == k, "todo"] = True
        return plan

    def part(self, chunk: int) -> pd.DataFrame:
        """What was read for a chunk's rows; empty where it has not been done."""
        path = self.folder / "parts" / f"{chunk}.parquet"
        return read_table(path) if path.exists() else pd.DataFrame(columns=PART_COLUMNS)

    def write_chunk(self, chunk: int, values: np.ndarray, part: pd.DataFrame) -> None:
        """Write a chunk's values float[n, D] (NaN where a file was bad), then what was read, then that it is done."""
        self.forget([chunk])  # while it is rewritten it is not done
        array = zarr.open_array(self.folder / "embeddings.zarr", mode="r+")
        start = chunk * array.chunks[0]
        padding = np.full((array.chunks[0] - len(values), values.shape[1]), np.nan)
        values = np.concatenate([values, padding]).astype(array.dtype)
        array[start : start + len(values)] = values
        write_table(self.folder / "parts" / f"{chunk}.parquet", part[PART_COLUMNS])
        digest = "" if np.isnan(values).all() else hashlib.sha256(values.tobytes()).hexdigest()
        write_json(self.folder / "done.json", {**{str(k): v for k, v in self.done().items()}, str(chunk): digest})

    def finish(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Close a store whose chunks are all done: (rows with an embedding, files that gave none)."""
        plan = read_table(self.folder / "plan.parquet")
        meta = self.meta
        parts = pd.concat([self.part(k) for k in sorted(self.done())])
        read = plan.merge(parts, on=["sample_id", "row"], how="left").sort_values("row")
        good = read[read["error"] == ""]
        rows = good[["sample_id", "row", "sha256"]].reset_index(drop=True)
        write_table(self.folder / "rows.parquet", rows)
        bad = read[read["error"] != ""][["sample_id", "error"]].reset_index(drop=True)
        write_table(self.folder / "bad.parquet", bad)
        ids = pd.util.hash_pandas_object(rows[["sample_id", "sha256"]], index=False).sort_values()
        meta["fingerprint"] = fingerprint([meta["depends"], hashlib.sha256(ids.to_numpy().tobytes()).hexdigest()])
        write_json(self.folder / "meta.json", meta)
        return read[read["error"] == ""].reset_index(drop=True), bad

    # ---- reading

    def rows(self) -> pd.DataFrame:
        """sample_id, row, sha256 of the samples that have an embedding. Raises NotFound or Stale when there are none yet."""
        if not self.complete:
            self.meta  # noqa: B018 (raises NotFound)
            raise Stale(f"{self.name} are not complete: an embed run was stopped. Go on: {self.remedy}")
        return read_table(self.folder / "rows.parquet")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Embeddings float32[len(rows), D] of these row numbers. Raises InputError naming rows that are missing on disk."""
        order = np.argsort(rows, kind="stable")
        out = np.empty((len(rows), self.meta["width"]), np.float32)
        at = 0
        for block_rows, block in self.blocks(rows[order]):
            out[order[at : at + len(block_rows)]] = block
            at += len(block_rows)
        return out

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(row numbers, values in the stored dtype) chunk by chunk, for ascending row numbers: memory of one chunk.

        Raises InputError naming the rows when a chunk is missing, damaged, or the array cannot be opened.
        """
        array = self._array()
        chunk_rows = array.chunks[0]
        done = self.done()
        edges = np.flatnonzero(np.diff(rows // chunk_rows)) + 1
        for wanted in np.split(rows, edges):
            if len(wanted) == 0:
                continue
            chunk = int(wanted[0] // chunk_rows)
            start = chunk * chunk_rows
            try:
                values = array[start : start + chunk_rows]
            except (OSError, ValueError, RuntimeError) as error:
                raise self._missing(chunk, wanted, f"cannot be read ({error})", " --digest") from None
            if np.isnan(values[wanted - start, 0]).any():
                raise self._missing(chunk, wanted, "is missing")
            if hashlib.sha256(values.tobytes()).hexdigest() != done.get(chunk):
                raise self._missing(chunk, wanted, "is not what was written (digest differs)", " --digest")
            whole = len(wanted) == len(values)
            yield wanted, values if whole else values[wanted - start]

    def _array(self) -> Any:
        try:
            return zarr.open_array(self.folder / "embeddings.zarr", mode="r")
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise InputError(f"{self.name} cannot be opened ({in_one_line(error)}). Mend them: {self.remedy}") from None

    def _chunk_file(self, chunk: int) -> Path:
        return self.folder / "embeddings.zarr" / "c" / str(chunk) / "0"

    def _missing(self, chunk: int, rows: np.ndarray, what: str, flag: str = "") -> InputError:
        ids = read_table(self.folder / "rows.parquet").set_index("row")["sample_id"]
        return InputError(
            f'{self.name}: chunk {chunk} {what}: {len(rows)} rows ({rows[0]} to {rows[-1]}, from sample "{ids.loc[rows[0]]}"). '
            f"Compute just these: {self.remedy}{flag}"
        )

    def forget(self, chunks: list[int]) -> None:
        """Take chunks off the done list, so that the next embed computes them."""
        done = self.done()
        if done.keys() & set(chunks):
            write_json(self.folder / "done.json", {str(k): v for k, v in done.items() if k not in chunks})

    def damaged_chunks(self) -> list[int]:
        """Done chunks whose values are gone or not what was written."""
        return [chunk for chunk in self.done() if not self._is_sound(chunk)]

    def _is_sound(self, chunk: int) -> bool:
        array, digest = self._array(), self.done()[chunk]
        try:
            values = array[chunk * array.chunks[0] : (chunk + 1) * array.chunks[0]]
        except (OSError, ValueError, RuntimeError):
            return False
        return bool(np.isnan(values).all()) if not digest else hashlib.sha256(values.tobytes()).hexdigest() == digest
