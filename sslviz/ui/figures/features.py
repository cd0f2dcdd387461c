"""Charts of features: tables in, plotly figures out; no Streamlit here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sslviz.ui.figures.scores import CORRECT, LAYOUT, NEUTRAL, WRONG, as_typed

CHOSEN, OTHER, SILENT = CORRECT, WRONG, "#B8B8B8"
"""Colours of discriminative features, of the others, and of what does not fire."""


def sorted_shares(table: pd.DataFrame) -> pd.DataFrame:
    """feature, share, chosen, rank: most often firing first; equal shares by feature number."""
    out = table[["feature", "share", "chosen"]].sort_values(["share", "feature"], ascending=[False, True], ignore_index=True)
    return out.assign(rank=np.arange(1, len(out) + 1))


def shares(table: pd.DataFrame, band: tuple[float, float], at: int | None = None) -> go.Figure:
    """Sorted activation shares with the band of the discriminative ones; `at`: a feature to mark."""
    figure = go.Figure()
    for name, part, colour in (
        ("discriminative (D)", table[table["chosen"]], CHOSEN),
        ("outside D", table[~table["chosen"]], NEUTRAL),
    ):
        figure.add_scatter(
            x=part["rank"],
            y=part["share"],
            mode="markers",
            marker={"size": 5, "color": colour},
            name=name,
            customdata=part["feature"],
            hovertemplate="feature %{customdata}<br>fires in %{y:.2f} % of train<extra></extra>",
        )
    figure.add_hrect(band[0], band[1], fillcolor=CHOSEN, opacity=0.1, line_width=0)
    if at is not None and (line := table[table["feature"] == at]).size:
        figure.add_scatter(
            x=line["rank"],
            y=line["share"],
            mode="markers+text",
            text=[f"feature {at}"],
            textposition="top right",
            marker={"size": 13, "color": WRONG, "symbol": "circle-open", "line": {"width": 3}},
            showlegend=False,
            hoverinfo="skip",
        )
    return figure.update_layout(
        xaxis_title="features, most often firing first", yaxis_title="% of train images", clickmode="event+select", **LAYOUT
    )


def values(low: float, high: float, counts: Any) -> pd.DataFrame:
    """low, high, images of each bin."""
    edges = np.linspace(low, high, len(counts) + 1)
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "images": counts})


def value_histogram(table: pd.DataFrame) -> go.Figure:
    """How the values of one feature are spread over the images (square-root axis: most values are 0 after a ReLU)."""
    middle = (table["low"] + table["high"]) / 2
    figure = go.Figure(
        go.Bar(
            x=middle,
            y=np.sqrt(table["images"]),
            width=table["high"] - table["low"],
            marker_color=CHOSEN,
            customdata=table["images"],
            hovertemplate="%{x:.3f}: %{customdata} images<extra></extra>",
        )
    )
    most = max(1, int(table["images"].max()))
    ticks = [t for t in (0, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000) if t <= most]
    figure.update_yaxes(tickvals=np.sqrt(ticks), ticktext=[f"{t:,}" for t in ticks])
    return figure.update_layout(xaxis_title="value in the unit row", yaxis_title="images", **{**LAYOUT, "height": 260})


def class_bars(table: pd.DataFrame, most: int = 20) -> go.Figure:
    """Share of each class's images in which the feature fires (title, share), strongest first, at most `most`."""
    part = table.sort_values("share", ascending=False).head(most)[::-1]
    figure = go.Figure(
        go.Bar(
            x=part["share"],
            y=[_short(t) for t in part["title"]],
            orientation="h",
            marker_color=CHOSEN,
            hovertemplate="%{y}: fires in %{x:.1f} %<extra></extra>",
        )
    )
    figure.update_yaxes(type="category")
    return figure.update_layout(
        xaxis_title="% of the class's images", xaxis_range=[0, 100], **{**LAYOUT, "height": max(200, 60 + 22 * len(part))}
    )


def _short(text: str, most: int = 24) -> str:
    return as_typed(text if len(text) <= most else text[: most - 1] + "…")


def expression(h: np.ndarray, firing: np.ndarray, chosen: np.ndarray, mean: float, threshold: float) -> go.Figure:
    """One sample's unit row h[D] as bars: L_i ∩ D (`chosen`), the rest of L_i (`firing`), the rest; mu and mu + eps * sigma."""
    fires, in_d = np.zeros(len(h), bool), np.zeros(len(h), bool)
    fires[firing], in_d[chosen] = True, True
    groups = {
        "does not fire": (~fires, SILENT),
        "fires, outside D": (fires & ~in_d, OTHER),
        "fires, in D": (fires & in_d, CHOSEN),
    }
    named = {f"{name} ({where.sum():,})": (np.flatnonzero(where), colour) for name, (where, colour) in groups.items()}
    return bars(h, named, {"mu": mean, "mu +<br>eps·sigma": threshold})


def bars(h: np.ndarray, groups: Mapping[str, tuple[np.ndarray, str]], lines: Mapping[str, float]) -> go.Figure:
    """A unit row h[D] as bars: the features of each group (name -> places, colour), and lines at heights."""
    figure = go.Figure()
    for name, (at, colour) in groups.items():
        figure.add_bar(
            x=at,
            y=h[at],
            width=1 if colour == SILENT else max(1.0, len(h) / 300),
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            customdata=at,
            hovertemplate="feature %{customdata}: %{y:.3f}<extra></extra>",
        )
    for (text, y), dash in zip(lines.items(), ("dot", "dash"), strict=False):
        figure.add_hline(y, line_dash=dash, line_color=NEUTRAL)
        figure.add_annotation(x=1, xref="paper", xanchor="left", y=y, text=text, showarrow=False, align="left")
    return figure.update_layout(
        barmode="overlay",
        xaxis_title="feature",
        yaxis_title="value (rows have length 1)",
        clickmode="event+select",
        **{**LAYOUT, "bargap": 0, "margin": {"l": 10, "r": 70, "t": 30, "b": 10}},
    )
