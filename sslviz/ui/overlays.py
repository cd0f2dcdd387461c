"""Heat and outlines as pictures: arrays in, PNG and JPEG bytes out; heatmaps of stored samples by their row."""

import base64
import io
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

from sslviz.data import dataset as datasets
from sslviz.encoders.spec import load_spec
from sslviz.errors import NotFound
from sslviz.store.files import read_table
from sslviz.store.results import latest_result
from sslviz.store.workspace import Workspace

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


def heat_file(dataset: str, encoder: str, row: int, side: int = 192) -> bytes:
    """JPEG of a sample (row of samples.parquet) as the encoder sees it, under its stored heatmap. Raises NotFound, InputError."""
    import torch

    from sslviz.data.loading import read_picture
    from sslviz.heatmaps import finish

    workspace = Workspace()
    found = datasets.load(workspace, dataset)
    result = latest_result(workspace.results(dataset, encoder, "interpret"))
    if result is None or found.root is None or row >= len(found.samples):
        raise NotFound(f"no heatmap {row} of {dataset} by {encoder}.")
    sample_id = str(found.samples["sample_id"].iat[row])
    with _lock:
        maps = _maps(str(result.folder), result.key)
    if sample_id not in maps.index:
        raise NotFound(f"no heatmap of {sample_id} by {encoder}.")
    spec = load_spec(workspace, encoder).input
    loaded = read_picture(found.root / sample_id, spec.resize, spec.size, thumb=False)
    if loaded.pixels is None:
        raise NotFound(f"{sample_id}: {loaded.error}.")
    height, width = result.content["summary"]["map_size"]
    raw = torch.tensor(np.asarray(maps[sample_id], np.float32).reshape(1, height, width))
    pixels = blend(loaded.pixels.permute(1, 2, 0).numpy(), finish(raw, (spec.size, spec.size))[0].numpy())
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


@lru_cache(maxsize=4)
def _maps(folder: str, key: str) -> "pd.Series":
    table = read_table(Path(folder) / "maps.parquet")
    return table.set_index("sample_id")["map"]
