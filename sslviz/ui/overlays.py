"""Heat and outlines as pictures: arrays in, PNG and JPEG bytes out; heatmaps of stored samples by their row."""

import base64
import io
import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

from sslviz.data import dataset as datasets
from sslviz.data.masks import Masks, load_masks, mask_facts
from sslviz.encoders.spec import load_spec
from sslviz.errors import NotFound
from sslviz.store.files import read_table
from sslviz.store.results import latest_result
from sslviz.store.workspace import Workspace
from sslviz.ui.pictures import stored

OUTLINES = {"core": (0, 158, 115), "spurious": (213, 94, 0)}
"""Colours of the two kinds of mask (Okabe and Ito, safe for colour-blind readers)."""
_lock = threading.Lock()


@lru_cache(maxsize=1)
def _colours() -> np.ndarray:
    """uint8[256, 3], dark to light."""
    shades = sample_colorscale(get_colorscale("Inferno"), np.linspace(0, 1, 256).tolist())
    return np.array([unlabel_rgb(shade) for shade in shades]).round().astype(np.uint8)


def heat_rgba(heat: np.ndarray) -> np.ndarray:
    """A heatmap float[H, W] in 0..1 as uint8[H, W, 4]: hot places light and opaque, cold ones clear."""
    level = (255 * heat.clip(0, 1)).round().astype(np.uint8)
    return np.dstack([_colours()[level], level])


def outline_rgba(mask: np.ndarray, kind: str, side: int) -> np.ndarray:
    """The edge of a mask uint8[S, S] (values of at least 128) at `side` pixels, uint8[side, side, 4]: marked pixels at most two
    steps from one that is not."""
    big = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST)) >= 128
    inner = big.copy()
    for _ in range(2):
        padded = np.pad(inner, 1, constant_values=True)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge = big & ~inner
    return np.dstack([*(np.full(edge.shape, c, np.uint8) for c in OUTLINES[kind]), 255 * edge.astype(np.uint8)])


def blend(pixels: np.ndarray, heat: np.ndarray, opacity: float = 0.7) -> np.ndarray:
    """A picture uint8[H, W, 3] under its heat float[H, W]."""
    rgba = heat_rgba(heat)
    alpha = opacity * rgba[..., 3:] / 255
    return (pixels * (1 - alpha) + rgba[..., :3] * alpha).round().astype(np.uint8)


def data_url(pixels: np.ndarray) -> str:
    """A picture uint8[H, W, 3 or 4] as a data: address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def cut_out(pixels: np.ndarray, mask: np.ndarray | None, threshold: float = 0.5) -> np.ndarray:
    """A picture uint8[S, S, 3], dark where its mask uint8[S, S] is below the threshold (of 1); all grey without one."""
    if mask is None:
        return np.full_like(pixels, 128)
    return np.where(mask[..., None] >= 255 * threshold, pixels, pixels // 8)


def heat_file(dataset: str, encoder: str, row: int, strip: bool = False, beside: str = "", side: int = 192) -> bytes:
    """JPEG of a sample (row of samples.parquet) as the encoder sees it, under its stored heatmap.

    strip: the picture, then under its heat, then what its core and its spurious mask mark, side by side, and last, where another
    encoder is named, under that one's heat. Raises NotFound, InputError.
    """
    workspace = Workspace()
    found = stored(workspace, dataset)
    if found.root is None or row >= len(found.samples):
        raise NotFound(f"no sample {row} of {dataset} has a picture.")
    sample_id = str(found.samples["sample_id"].iat[row])
    seen = _seen(workspace, found, encoder, sample_id)
    panels = [blend(seen.pixels, seen.heat)]
    if strip:
        masks = _masks_of(workspace, found, encoder, sample_id, seen.picture)
        panels = [seen.pixels, *panels, *(cut_out(seen.pixels, masks.get(kind), seen.mask_threshold) for kind in OUTLINES)]
    if strip and beside:
        other = _seen(workspace, found, beside, sample_id)
        panels.append(blend(other.pixels, other.heat))
    image = Image.new("RGB", (side * len(panels), side))
    for k, panel in enumerate(panels):
        image.paste(Image.fromarray(panel).resize((side, side), Image.Resampling.BICUBIC), (k * side, 0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


class _Seen(NamedTuple):
    """A picture as an encoder sees it uint8[S, S, 3], its heat float[S, S], the picture's own width and height, and from where
    on its masks count."""

    pixels: np.ndarray
    heat: np.ndarray
    picture: tuple[int, int]
    mask_threshold: float


def _seen(workspace: Workspace, dataset: datasets.Dataset, encoder: str, sample_id: str) -> _Seen:
    import torch

    from sslviz.data.loading import read_picture
    from sslviz.heatmaps import finish

    result = latest_result(workspace.results(dataset.name, encoder, "interpret"))
    if result is None:
        raise NotFound(f"no heatmaps of {dataset.name} by {encoder}.")
    with _lock:
        maps = _maps(str(result.folder), result.key)
    if sample_id not in maps.index:
        raise NotFound(f"no heatmap of {sample_id} by {encoder}.")
    spec = load_spec(workspace, encoder).input
    assert dataset.root is not None
    loaded = read_picture(dataset.root / sample_id, spec.resize, spec.size, thumb=False)
    if loaded.pixels is None:
        raise NotFound(f"{sample_id}: {loaded.error}.")
    summary = result.content["summary"]
    height, width = summary["map_size"]
    raw = torch.tensor(np.asarray(maps[sample_id], np.float32).reshape(1, height, width))
    heat = finish(raw, (spec.size, spec.size))[0].numpy()
    return _Seen(loaded.pixels.permute(1, 2, 0).numpy(), heat, (loaded.width, loaded.height), summary["mask_threshold"])


def _masks_of(
    workspace: Workspace, dataset: datasets.Dataset, encoder: str, sample_id: str, picture: tuple[int, int]
) -> dict[str, np.ndarray]:
    facts = mask_facts(dataset)
    if facts is None:
        return {}
    spec = load_spec(workspace, encoder).input
    with _lock:
        masks = stored_masks(str(dataset.folder), dataset.fingerprint, facts["fingerprint"])
    return masks.read(sample_id, picture, spec.resize, spec.size)


@lru_cache(maxsize=2)
def stored_masks(folder: str, dataset: str, fingerprint: str) -> Masks:
    """The masks of the data set in a folder; fingerprints: of data set and masks."""
    found = load_masks(datasets.load(Workspace(Path(folder).parents[1]), Path(folder).name))
    assert found is not None
    return found


@lru_cache(maxsize=4)
def _maps(folder: str, key: str) -> "pd.Series":
    table = read_table(Path(folder) / "maps.parquet")
    return table.set_index("sample_id")["map"]
