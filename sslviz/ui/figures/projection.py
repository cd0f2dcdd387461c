"""The map: which points are drawn, what lies inside a lasso, and the figure; no Streamlit here."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sslviz.ui.figures.scores import CORRECT, LAYOUT, NEUTRAL, PALETTE, WRONG, as_typed

MOST_POINTS = 8_000
MOST_CLASSES = 20
OTHER = "other classes"


def drawn_points(groups: pd.Series, most: int = MOST_POINTS, seed: int = 0) -> np.ndarray:
    """Positions int[n <= most] of the points to draw: all, or a seeded sample of each group by its share, at least one."""
    if len(groups) <= most:
        return np.arange(len(groups))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    codes = pd.factorize(groups)[0][order]
    place = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    size = np.bincount(codes + 1, minlength=codes.max() + 2)[codes + 1]
    rank = np.argsort(place / size, kind="stable")  # the k-th of n comes at k/n: every prefix holds the groups by their shares
    return np.sort(order[rank[:most]])


def inside(polygon: Any, xy: np.ndarray) -> np.ndarray:
    """bool[N]: which points float[N, 2] lie inside a polygon float[K, 2], by crossings; on an edge either may come out."""
    corners = np.asarray(polygon, np.float64)
    low, high = corners.min(0), corners.max(0)
    near = ((xy >= low) & (xy <= high)).all(1)
    x, y = xy[near, 0].astype(np.float64), xy[near, 1].astype(np.float64)
    odd = np.zeros(len(x), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    out = np.zeros(len(xy), bool)
    out[near] = odd
    return out


def polygon_of(selection: Any) -> np.ndarray | None:
    """The outline float[K, 2] of a plotly selection's lasso or box; None where there is neither."""
    for lasso in selection.get("lasso") or []:
        return np.column_stack([lasso["x"], lasso["y"]]).astype(float)
    for box in selection.get("box") or []:
        (x0, x1), (y0, y1) = sorted(box["x"]), sorted(box["y"])
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)
    return None


def top_classes(titles: pd.Series, only: Sequence[str] = ()) -> pd.Series:
    """Titles with all but the 20 largest classes, or all but these, as "other classes"; no label stays missing."""
    if only:
        return titles.where(titles.isna() | titles.isin(only), OTHER)
    largest = titles.value_counts().index
    if len(largest) <= MOST_CLASSES:
        return titles
    return titles.where(titles.isna() | titles.isin(largest[: MOST_CLASSES - 1]), OTHER)


def density_image(xy: np.ndarray, side: int = 256) -> tuple[str, tuple[float, float, float, float]]:
    """All points as a faint grey picture (data URI, (x0, y0, x1, y1)): what lies under the drawn sample."""
    from PIL import Image

    low, high = xy.min(0), xy.max(0)
    high = np.where(high > low, high, low + 1)
    counts, _, _ = np.histogram2d(xy[:, 0], xy[:, 1], side, [[low[0], high[0]], [low[1], high[1]]])
    alpha = np.log1p(counts) / max(np.log1p(counts.max()), 1)
    pixels = np.full((side, side, 4), 128, np.uint8)
    pixels[..., 3] = (120 * alpha.T[::-1]).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", (*low, *high)


def scatter(
    table: pd.DataFrame, colour: str, marked: pd.DataFrame, under: Any = None, colours: dict[str, str] | None = None
) -> go.Figure:
    """The map of x, y. `colour`: the column shown, numbers on a scale, words by group (in `colours` where they are named);
    `marked`: points with a ring; `under`: what `density_image` gave for all points."""
    figure = go.Figure()
    if under is not None:
        source, (x0, y0, x1, y1) = under
        place = {"x": x0, "y": y1, "sizex": x1 - x0, "sizey": y1 - y0, "xref": "x", "yref": "y", "layer": "below"}
        figure.add_layout_image(source=source, sizing="stretch", **place)
    if pd.api.types.is_numeric_dtype(table[colour]):
        known = table[table[colour].notna()]
        marker = {"color": known[colour], "colorscale": "Viridis", "showscale": True, "colorbar": {"thickness": 12}}
        _add_points(figure, known, "images", marker)
        figure.update_traces(showlegend=False)
    else:
        groups = table[colour].astype(object).where(table[colour].notna(), "no label")
        fixed = {
            "correct": CORRECT,
            "misclassified": WRONG,
            "not judged": NEUTRAL,
            "no label": NEUTRAL,
            OTHER: NEUTRAL,
            **(colours or {}),
        }
        names = sorted(groups.unique(), key=lambda n: (fixed.get(n) != NEUTRAL, n))  # grey lies underneath
        for k, name in enumerate(names):
            marker = {"color": fixed.get(name) or PALETTE[k % len(PALETTE)]}
            _add_points(figure, table[groups == name], name, marker)
    if len(marked):
        ring = {"size": 16, "color": WRONG, "symbol": "circle-open", "line": {"width": 3}}
        figure.add_scattergl(x=marked["x"], y=marked["y"], mode="markers", marker=ring, name="this image", hoverinfo="skip")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    legend = {"orientation": "h", "y": -0.02, "yanchor": "top", "x": 0, "itemsizing": "constant"}
    layout = {**LAYOUT, "height": 620, "legend": legend, "margin": {"l": 0, "r": 0, "t": 10, "b": 10}}
    return figure.update_layout(clickmode="event+select", **layout)


def _add_points(figure: go.Figure, part: pd.DataFrame, name: str, marker: dict[str, Any]) -> None:
    figure.add_scattergl(
        x=part["x"],
        y=part["y"],
        mode="markers",
        name=as_typed(name),
        marker={"size": 5, "opacity": 0.8, **marker},
        customdata=np.column_stack([part["sample_id"], part["hover"].map(as_typed)]),
        hovertemplate="%{customdata[1]}<extra></extra>",
    )
