"""The demo set on disk: Parquet files of pictures, masks and causes, as they ship and as `sslviz demo --render` remakes them.

train.parquet, test.parquet: sample_id, image, core_mask, spurious_mask ({bytes, path}, as Hugging Face data sets store
images: WebP, and PNG of one bit a pixel), then the columns of `Record`. counterfactuals.parquet: sample_id, change, image,
and the record of the changed scene, for 200 test scenes.
"""

import io
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sslviz.data.demo.materials import GROUNDS
from sslviz.data.demo.scene import USUAL_PLACE, Scene, render
from sslviz.data.demo.shapes import OBJECTS
from sslviz.errors import InputError
from sslviz.progress import Progress
from sslviz.store.files import read_table, whole_file, write_table

SPLITS = {"train": 4500, "test": 2000}
FILES = ("train.parquet", "test.parquet", "counterfactuals.parquet")
SIDE = 96
N_COUNTERFACTUAL_SCENES = 200
CHANGES = ("place", "half hidden", "dark", "turned", "far")
TROUBLE_OF = {"half hidden": "occluded", "dark": "dark", "far": "far"}
"""The trouble that a change brings, in the place of another one."""
_FIRST_SEED = {"train": 0, "test": 1_000_000}
_PICTURES = ("image", "core_mask", "spurious_mask")


def shipped() -> Path:
    """The folder of the shipped demo: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).parents[2]
    inside = package / "_app" / "assets" / "demo"
    return inside if inside.is_dir() else package.parent / "assets" / "demo"


def encoder_files() -> list[Path]:
    """weights.safetensors of each shipped encoder; its folder's name is its own, with head.safetensors and card.json beside."""
    return sorted((shipped() / "encoders").glob("*/weights.safetensors"))


def scenes(split: str) -> dict[str, Scene]:
    """sample_id -> scene, of "train" or "test"; classes take turns."""
    labels, first = list(OBJECTS), _FIRST_SEED[split]
    found = {}
    for seed in range(first, first + SPLITS[split]):
        label = labels[seed % len(labels)]
        found[f"{split}/{label}/{seed:07d}.webp"] = Scene(label, seed)
    return found


def scene_of(sample_id: str) -> Scene:
    """The scene a sample of the demo set was rendered from. Raises InputError for another id."""
    for split in SPLITS:
        if sample_id.startswith(f"{split}/") and sample_id in (known := scenes(split)):
            return known[sample_id]
    raise InputError(f'"{sample_id}" is not a sample of the demo set.')


def counterfactual(scene: Scene, usual_place: bool, trouble: str, change: str) -> Scene:
    """The scene with one cause changed: one of CHANGES; a trouble that is there already is taken away instead.

    usual_place, trouble: of the record of the scene as it is.

    "place": to the usual place, or from it to the fifth after it in the list of grounds.
    """
    if change == "place":
        usual = USUAL_PLACE[scene.label]
        grounds = list(GROUNDS)
        return scene.changed(place=grounds[(grounds.index(usual) + 5) % len(grounds)] if usual_place else usual)
    if change == "turned":
        return scene.changed(turn=120.0)
    wanted = TROUBLE_OF[change]
    return scene.changed(trouble="none" if trouble == wanted else wanted)


def render_files(folder: Path, progress: Progress, processes: int | None = None) -> None:
    """Render the whole set into `folder`; equal bits on one machine, whatever the number of processes."""
    folder.mkdir(parents=True, exist_ok=True)
    work = {f"{split}.parquet": [(sample_id, "", scene) for sample_id, scene in scenes(split).items()] for split in SPLITS}
    chosen = list(scenes("test").items())[:N_COUNTERFACTUAL_SCENES]
    work[FILES[2]] = [(sample_id, change, scene) for sample_id, scene in chosen for change in CHANGES]
    progress.stage("rendering", sum(len(items) for items in work.values()))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=spawn) as pool:
        try:
            for name, items in work.items():
                rows = []
                for row in pool.map(_row, items, chunksize=20):
                    rows.append(row)
                    progress.advance()
                _write(folder / name, pd.DataFrame(rows))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _row(item: tuple[str, str, Scene]) -> dict[str, Any]:
    sample_id, change, scene = item
    picture = render(scene, SIDE)
    row: dict[str, Any] = {"sample_id": sample_id}
    if change:
        row["change"] = change
        record = picture.record
        picture = render(counterfactual(scene, record.usual_place, record.trouble, change), SIDE)
    row["image"] = {"bytes": webp(picture.image), "path": sample_id}
    if not change:
        row["core_mask"] = {"bytes": _png(picture.core), "path": sample_id}
        row["spurious_mask"] = {"bytes": _png(picture.spurious), "path": sample_id}
    return row | picture.record.as_row()


def webp(image: npt.NDArray[np.uint8]) -> bytes:
    """A picture as the set stores it: what the encoder sees of a live counterfactual must have gone through the same file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=80, method=6)
    return buffer.getvalue()


def _png(mask: npt.NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write(path: Path, table: pd.DataFrame) -> None:
    """Parquet that the datasets library opens with its pictures decoded."""
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = {name: picture for name in table.columns if name in _PICTURES}
    plain = pa.Table.from_pandas(table.drop(columns=list(fields)), preserve_index=False)
    for name, kind in fields.items():
        plain = plain.append_column(name, pa.array(table[name].tolist(), kind))
    features = {field.name: _hugging_face_type(field, fields) for field in plain.schema}
    plain = plain.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with whole_file(path) as beside:
        pq.write_table(plain, beside, compression="none")


def _hugging_face_type(field: pa.Field, pictures: dict[str, Any]) -> dict[str, str]:
    if field.name in pictures:
        return {"_type": "Image"}
    return {"_type": "Value", "dtype": {"double": "float64"}.get(str(field.type), str(field.type))}


def unpack(source: Path, folder: Path, progress: Progress) -> Path:
    """Write the pictures as files below folder/images and what caused them into folder/causes.parquet; returns folder/images.

    Files that are there are kept, so a stopped unpacking goes on. Raises InputError where the shipped files are missing.
    """
    if not all((source / name).exists() for name in FILES):
        raise InputError(f"the demo set is not in {source}. Render it (about a minute and a half): sslviz demo --render")
    images, causes = folder / "images", []
    progress.stage("unpacking the demo set", sum(SPLITS.values()))
    for name in FILES[:2]:
        table = read_table(source / name)
        for sample_id, image in zip(table["sample_id"], table["image"], strict=True):
            path = images / sample_id
            if not path.exists() or path.read_bytes() != image["bytes"]:
                with whole_file(path) as beside:
                    beside.write_bytes(image["bytes"])
            progress.advance()
        causes.append(table.drop(columns=list(_PICTURES)))
    write_table(folder / "causes.parquet", pd.concat(causes, ignore_index=True))
    return images


def packed_masks(source: Path) -> pd.DataFrame:
    """sample_id, core, spurious (PNG bytes) of every picture."""
    table = pd.concat([pd.read_parquet(source / name, columns=["sample_id", *_PICTURES[1:]]) for name in FILES[:2]])
    core, spurious = ([mask["bytes"] for mask in table[column]] for column in _PICTURES[1:])
    return pd.DataFrame({"sample_id": table["sample_id"].to_numpy(), "core": core, "spurious": spurious})


def shipped_counterfactuals(sample_id: str) -> pd.DataFrame:
    """change, image (WebP bytes) and the record's columns of a sample's five counterfactuals; empty for most samples."""
    if not (shipped() / FILES[2]).exists():
        return pd.DataFrame({"change": [], "image": []})
    table = pd.read_parquet(shipped() / FILES[2], filters=[("sample_id", "==", sample_id)])
    table["image"] = [image["bytes"] for image in table["image"]]
    return table


def differing(a: Path, b: Path) -> int:
    """How many rows of two renderings are not equal to the bit."""
    count = 0
    for name in FILES:
        one, other = read_table(a / name).to_dict("records"), read_table(b / name).to_dict("records")
        same = sum(x == y for x, y in zip(one, other, strict=False))
        count += max(len(one), len(other)) - same
    return count
