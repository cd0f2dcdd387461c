"""Embed a data set: pixels are read once; size, digest, thumbnail and embedding come out of the same pass."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sslviz.errors import InputError
from sslviz.jobs import AnyDataset, AnyEncoder, BatchSize, ChunkRows, Device, Settings, Workers, job, readers
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from sslviz.encoders.run import Encoder
    from sslviz.store.embeddings import EmbeddingStore


class EmbedSettings(Settings):
    dataset: AnyDataset
    encoder: AnyEncoder
    batch_size: BatchSize = 64
    chunk_rows: ChunkRows = None
    workers: Workers = None
    device: Device = "auto"
    precision: Literal["auto", "32", "bf16"] = Field(
        "auto", description="arithmetic of the forward pass; auto: that of embeddings which are there, else 32"
    )
    store_dtype: Literal["auto", "float32", "float16"] = Field(
        "auto", description="numbers on disk; auto: those of embeddings which are there, else float32"
    )
    strict: bool = Field(False, description="fail when a file is not a readable image, instead of listing it")
    digest: bool = Field(False, description="check every stored chunk and read every file again, whatever its size and time say")


@job("embed", EmbedSettings, example="sslviz embed --dataset photos --encoder simclr")
def embed(settings: EmbedSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Compute the embeddings of a data set by an encoder; goes on where it was stopped."""
    from sslviz.data import dataset as datasets
    from sslviz.encoders.run import load_encoder, pick_device
    from sslviz.store.embeddings import EmbeddingStore
    from sslviz.store.files import only_writer, write_json

    folder = workspace.embeddings(settings.dataset, settings.encoder)
    with only_writer(folder, f"the embeddings of {settings.dataset} by {settings.encoder}", _who(progress)):
        progress.stage("listing files")
        dataset, notes = datasets.refresh(workspace, settings.dataset)
        if dataset.root is None:
            raise InputError(f'data set "{dataset.name}" was imported as arrays; there is nothing to embed.')
        device = pick_device(settings.device)
        encoder = load_encoder(workspace, settings.encoder, device)
        store = EmbeddingStore(folder)
        precision, dtype = _as_stored(settings, store)
        settings = settings.model_copy(update={"precision": precision, "store_dtype": dtype})
        depends = {"encoder": encoder.spec.fingerprint(), "precision": precision, "dtype": dtype}
        width = encoder.spec.feature_dim
        seconds_an_image = 0.0
        if not store.goes_on(depends):  # before what is there is given up
            seconds_an_image = _seconds_an_image(encoder, settings)
            _check_disk(workspace.root, len(dataset.samples), width, dtype, folder)
        plan = store.begin(depends, width, dtype, settings.chunk_rows, dataset.samples)
        if settings.digest:
            store.forget(store.damaged_chunks())
            plan = plan.assign(todo=True)
        todo = plan[plan["todo"]]
        progress.note(device=device, precision=precision, to_compute=len(todo), kept=len(plan) - len(todo))
        gigabytes = _check_disk(workspace.root, len(todo), width, dtype)
        seconds = len(todo) * (seconds_an_image or _seconds_an_image(encoder, settings)) if len(todo) else 0.0
        if seconds > 60:
            progress.warn(f"about {seconds / 60:.0f} min for {len(todo):,} images on {device}, {gigabytes:.2f} GB on disk")
        run = _Pass(settings, dataset.root, encoder, store, dataset.folder, plan, progress)
        progress.stage("embedding", len(todo))
        for chunk, rows in plan.groupby("chunk", sort=True):
            if rows["todo"].any():
                run.chunk(int(str(chunk)), rows)
        read, bad = store.finish()
        meta = {**store.meta, "dataset": dataset.fingerprint}
        write_json(folder / "meta.json", meta)
        datasets.record_pixel_facts(workspace, dataset.name, read)
    for line in run.remarks(read):
        progress.warn(line)
    if len(bad):
        lines = [f"{sample_id}: {error}" for sample_id, error in bad.itertuples(index=False)]
        progress.warn(
            f"{len(bad)} files gave no embedding and are left out: {'; '.join(lines[:20])}" + ("; …" if len(bad) > 20 else "")
        )
        if len(bad) > 20:
            progress.warn(f"all of them with their reasons: {folder / 'bad.parquet'}, or --json")
    if settings.strict and len(bad):
        raise InputError(
            f"{len(bad)} files are not readable images (--strict): {bad['sample_id'].iloc[0]}: {bad['error'].iloc[0]}."
        )
    return {
        "dataset": dataset.name,
        "encoder": encoder.spec.name,
        "n": len(read),
        "computed": run.computed,
        "kept": len(read) - run.computed,
        "features": width,
        "images_per_second": round(run.speed(), 1),
        "device": device,
        "n_zero": run.n_zero,
        "bad": [{"sample_id": s, "error": e} for s, e in bad.itertuples(index=False)],
        "notes": notes,
        "input": encoder.spec.input.model_dump(mode="json"),
        "fingerprint": meta["fingerprint"],
    }


class _Pass:
    """Reads, decodes and embeds the rows that are to do, chunk by chunk."""

    def __init__(
        self,
        settings: EmbedSettings,
        root: Path,
        encoder: "Encoder",
        store: "EmbeddingStore",
        dataset_folder: Path,
        plan: "pd.DataFrame",
        progress: Progress,
    ) -> None:
        from sslviz.data import thumbs
        from sslviz.data.loading import ahead, read_picture

        self.settings, self.encoder, self.store, self.progress = settings, encoder, store, progress
        self.dataset_folder = dataset_folder
        self.thumbs = thumbs.stored(dataset_folder) if plan["todo"].any() and not settings.digest else set()
        self.chunk_rows = int(store.meta["chunk_rows"])
        self.width = int(store.meta["width"])
        self.computed = self.n_zero = 0
        self.started = time.monotonic()
        spec = encoder.spec.input
        ids = plan.loc[plan["todo"], "sample_id"].tolist()
        n = readers(settings.workers)
        window = max(4 * n, 2 * settings.batch_size)
        self.pictures = ahead(lambda s: read_picture(root / s, spec.resize, spec.size), ids, n, window)

    def chunk(self, chunk: int, rows: "pd.DataFrame") -> None:
        import numpy as np
        import pandas as pd

        from sslviz.data.thumbs import write_pack
        from sslviz.store.embeddings import PART_COLUMNS

        start = chunk * self.chunk_rows
        values = np.full((int(rows["row"].max()) - start + 1, self.width), np.nan, np.float32)
        old = self.store.part(chunk).set_index("sample_id")
        kept = rows[~rows["todo"]]
        known = old.loc[old.index.isin(rows["sample_id"])]
        previous = self._previous(chunk, known)
        parts = [old.loc[kept["sample_id"]].reset_index()] if len(kept) else []
        for row in kept["row"]:
            values[row - start] = previous.get(row, np.nan)  # NaN where the file was bad
        batch: list[tuple[int, torch.Tensor, str]] = []
        thumbs, new = [], []
        for sample_id, row, size, mtime_ns in rows.loc[rows["todo"], ["sample_id", "row", "size", "mtime_ns"]].itertuples(
            index=False
        ):
            got = next(self.pictures)
            new.append((sample_id, row, got.sha256, size, mtime_ns, got.width, got.height, got.error, got.remark))
            if got.pixels is None:
                values[row - start] = np.nan
                self.progress.advance()
                continue
            if (sample_id, got.sha256) not in self.thumbs:
                thumbs.append((sample_id, got.sha256, got.thumb))
            if sample_id in known.index and known.loc[sample_id, "sha256"] == got.sha256:
                vector = previous.get(known.loc[sample_id, "row"])  # by the row it had then, which may be another one now
                if vector is not None:
                    values[row - start] = vector
                    self.progress.advance()
                    continue
            batch.append((row - start, got.pixels, sample_id))
            if len(batch) == self.settings.batch_size:
                self._embed(batch, values)
        self._embed(batch, values)
        if new:
            parts.append(pd.DataFrame(new, columns=PART_COLUMNS))
        write_pack(self.dataset_folder, thumbs)
        self.store.write_chunk(chunk, values, pd.concat(parts))

    def _previous(self, chunk: int, known: "pd.DataFrame") -> "dict[int, np.ndarray]":
        """Vectors the chunk already has, by row; empty where it was never whole."""
        import numpy as np

        wanted = np.sort(known.loc[known["error"] == "", "row"].to_numpy(dtype=np.int64))
        if chunk not in self.store.done() or len(wanted) == 0:
            return {}
        found: dict[int, np.ndarray] = {}
        for block_rows, block in self.store.blocks(wanted):
            found.update(zip(block_rows.tolist(), block, strict=True))
        return found

    def _embed(self, batch: "list[tuple[int, torch.Tensor, str]]", values: "np.ndarray") -> None:
        import numpy as np
        import torch

        if not batch:
            return
        places, pixels, ids = zip(*batch, strict=True)
        h = self.encoder.embed(torch.stack(pixels), bf16=self.settings.precision == "bf16").cpu().numpy()
        with np.errstate(over="ignore"):
            finite = np.isfinite(h.astype(self.settings.store_dtype)).all(1)
        if not finite.all():
            raise InputError(
                f"encoder {self.encoder.spec.name} gives NaN or infinity as {self.settings.store_dtype} "
                f'for sample "{ids[finite.argmin()]}". '
                f"Try --precision 32 --store-dtype float32, or an earlier checkpoint."
            )
        values[list(places)] = h
        self.computed += len(batch)
        self.n_zero += int((abs(h).max(1) == 0).sum())
        batch.clear()
        self.progress.advance(len(places))
        self.progress.note(images_per_second=round(self.speed(), 1))

    def speed(self) -> float:
        return self.computed / max(1e-9, time.monotonic() - self.started)

    def remarks(self, read: "pd.DataFrame") -> list[str]:
        lines = []
        if self.n_zero:
            lines.append(f"{self.n_zero} images have an embedding of norm zero; their score is 0")
        several = read.loc[read["remark"] != "", "sample_id"]
        if len(several):
            lines.append(f"of {len(several)} files with several frames the first was used: {', '.join(several[:3])}")
        return lines


def _seconds_an_image(encoder: "Encoder", settings: EmbedSettings) -> float:
    """Time of a short trial of the forward pass; decoding goes on beside it."""
    import torch

    size = encoder.spec.input.size
    images = torch.zeros(min(8, settings.batch_size), 3, size, size, dtype=torch.uint8)
    encoder.embed(images)
    start = time.perf_counter()
    encoder.embed(images).cpu()
    return (time.perf_counter() - start) / len(images)


def _as_stored(settings: EmbedSettings, store: "EmbeddingStore") -> tuple[str, str]:
    """(precision, dtype on disk): as asked for, else those of embeddings that are there, else 32 and float32."""
    there = store.meta["depends"] if (store.folder / "meta.json").exists() else {}
    precision = there["precision"] if there.get("precision") in ("32", "bf16") else "32"  # not that of imported arrays
    dtype = there.get("dtype", "float32")
    return (
        precision if settings.precision == "auto" else settings.precision,
        dtype if settings.store_dtype == "auto" else settings.store_dtype,
    )


def _check_disk(root: Path, n: int, width: int, dtype: str, instead_of: Path | None = None) -> float:
    """Gigabytes the work will write; refused before it starts when the disk has no room. instead_of: a folder that goes first."""
    import numpy as np

    need = n * (width * np.dtype(dtype).itemsize + 4096)
    freed = sum(path.stat().st_size for path in instead_of.rglob("*")) if instead_of else 0
    free = shutil.disk_usage(root).free + freed
    if need * 1.05 > free:
        raise InputError(
            f"embedding {n:,} images needs about {need / 1e9:.1f} GB below {root}, and {free / 1e9:.1f} GB are free. "
            f"Free some, or use --store-dtype float16."
        )
    return need / 1e9


def _who(progress: Progress) -> str:
    return f"run {progress.folder.name}" if progress.folder else ""
