"""Thumbnails, packed: a few thousand pictures to a file, each pack with its own index, so that nobody waits for a lock."""

from pathlib import Path
from uuid import uuid4

import pandas as pd

from sslviz.store.files import read_table, whole_file, write_table


def write_pack(folder: Path, thumbs: list[tuple[str, str, bytes]]) -> None:
    """Write thumbnails (sample_id, sha256 of the picture, file content) as one pack below the data set's folder."""
    if not thumbs:
        return
    name = uuid4().hex
    offsets, at = [], 0
    with whole_file(folder / "thumbs" / f"{name}.pack") as beside, beside.open("wb") as handle:
        for _, _, content in thumbs:
            offsets.append(at)
            at += handle.write(content)
    ids, digests, contents = zip(*thumbs, strict=True)
    index = pd.DataFrame(
        {"sample_id": ids, "sha256": digests, "pack": name, "offset": offsets, "size": [len(c) for c in contents]}
    )
    write_table(folder / "thumbs" / f"{name}.parquet", index)


def index(folder: Path) -> pd.DataFrame:
    """sample_id, sha256, pack, offset, size of every thumbnail; of several for one sample the newest pack counts."""
    packs = sorted((folder / "thumbs").glob("*.parquet"), key=lambda p: p.stat().st_mtime_ns)
    columns = ["sample_id", "sha256", "pack", "offset", "size"]
    if not packs:
        return pd.DataFrame(columns=columns)
    return pd.concat([read_table(p) for p in packs]).drop_duplicates("sample_id", keep="last", ignore_index=True)


def stored(folder: Path) -> set[tuple[str, str]]:
    """(sample_id, sha256 of the picture) of the thumbnails whose pack is there."""
    found = index(folder)
    there = {pack for pack in found["pack"].unique() if (folder / "thumbs" / f"{pack}.pack").exists()}
    return set(found.loc[found["pack"].isin(there), ["sample_id", "sha256"]].itertuples(index=False, name=None))


def read_thumb(folder: Path, pack: str, offset: int, size: int) -> bytes:
    """One thumbnail's file content."""
    with (folder / "thumbs" / f"{pack}.pack").open("rb") as handle:
        handle.seek(offset)
        return handle.read(size)
