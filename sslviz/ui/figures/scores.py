"""Charts of scores: tables in, plotly figures out; no Streamlit here."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

CORRECT, WRONG, NEUTRAL = "#0072B2", "#D55E00", "#767676"  # Okabe-Ito: safe for colour-blind readers
PALETTE = [
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800", "#7A4EAB", "#8C564B", "#17BECF"),
    *("#1B4F72", "#A66F00", "#00543D", "#8A3C66", "#2E86C1", "#8E3B00", "#6E6500", "#4A2B6B", "#5B3730", "#0E7C87"),
]
LAYOUT: dict[str, Any] = {
    "margin": {"l": 10, "r": 10, "t": 30, "b": 10},
    "height": 320,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    "bargap": 0.05,
}


def as_typed(text: str) -> str:
    """Text from data for a label or hover box: plotly reads tags in them as HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def histogram_table(score: pd.Series, correct: pd.Series | None, bins: int = 40) -> pd.DataFrame:
    """Counts of a score in equal bins: low, high, and correct/misclassified/unjudged (or images, without a probe)."""
    edges = np.histogram_bin_edges(score, bins=bins)
    groups = {"images": score}
    if correct is not None:
        known = correct.notna()
        groups = {
            "correct": score[known & correct.fillna(False).astype(bool)],
            "misclassified": score[known & ~correct.fillna(True).astype(bool)],
            "not judged": score[~known],
        }
    counts = {name: np.histogram(values, edges)[0] for name, values in groups.items() if len(values)}
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], **counts})


def histogram(table: pd.DataFrame, name: str) -> go.Figure:
    """Bars of `histogram_table`, correct and misclassified as shares of their own group, so that shapes compare."""
    colours = {"correct": CORRECT, "misclassified": WRONG}
    figure = go.Figure()
    middle, width = (table["low"] + table["high"]) / 2, table["high"] - table["low"]
    for group in table.columns[2:]:
        share = 100 * table[group] / max(1, table[group].sum())
        figure.add_bar(
            x=middle,
            y=share,
            width=width,
            name=group,
            marker_color=colours.get(group, NEUTRAL),
            opacity=0.6,
            customdata=table[group],
            hovertemplate="%{x:.4g}: %{y:.1f} % (%{customdata} images)<extra>" + group + "</extra>",
        )
    figure.update_layout(barmode="overlay", xaxis_title=name, yaxis_title="% of the group", **LAYOUT)
    return figure


def curves(score: pd.Series, correct: pd.Series) -> pd.DataFrame:
    """Along falling score thresholds (at most 400 points): coverage, selective error, true/false positive rate, precision, and
    found: share of all misclassified images among the reviewed ones, lowest scores first."""
    order = np.argsort(-score.to_numpy(), kind="stable")
    hits, values = correct.to_numpy(dtype=bool)[order], score.to_numpy()[order]
    ends = np.flatnonzero(np.append(np.diff(values) != 0, True))
    n, n_hits = len(hits), max(1, int(hits.sum()))
    n_errors = max(1, n - int(hits.sum()))
    true = np.cumsum(hits)[ends]
    seen = ends + 1
    table = pd.DataFrame(
        {
            "threshold": values[ends],
            "coverage": seen / n,
            "error": (seen - true) / seen,
            "true_positive": true / n_hits,
            "false_positive": (seen - true) / n_errors,
            "precision": true / seen,
            "reviewed": 1 - seen / n,
            "found": 1 - (seen - true) / n_errors,
        }
    )
    start = {"threshold": np.nan, "coverage": 0.0, "true_positive": 0.0, "false_positive": 0.0, "reviewed": 1.0, "found": 1.0}
    table = pd.concat([pd.DataFrame([start]), table], ignore_index=True)[table.columns]  # nothing kept: errors undefined
    if len(table) > 400:
        table = table.iloc[np.unique(np.linspace(0, len(table) - 1, 400).astype(int))]
    return table.reset_index(drop=True)


Curves = Mapping[str, pd.DataFrame]
"""`curves` of scores, by their names."""


def roc(found: Curves) -> go.Figure:
    figure = _lines(found, "false_positive", "true_positive")
    _add_reference(figure, [0, 1], [0, 1], "no information")
    return figure.update_layout(xaxis_title="misclassified images kept", yaxis_title="correct images kept", **LAYOUT)


def precision_recall(found: Curves, base_rate: float) -> go.Figure:
    figure = _lines(found, "true_positive", "precision")
    _add_reference(figure, [0, 1], [base_rate, base_rate], f"base rate {100 * base_rate:.1f} %")
    return figure.update_layout(xaxis_title="correct images kept (recall)", yaxis_title="share correct (precision)", **LAYOUT)


def risk_coverage(found: Curves, base_rate: float) -> go.Figure:
    figure = _lines(found, "coverage", "error")
    _add_reference(figure, [0, 1], [1 - base_rate, 1 - base_rate], f"all images {100 * (1 - base_rate):.1f} %")
    return figure.update_layout(xaxis_title="share of images kept, best scores first", yaxis_title="error among them", **LAYOUT)


def review_budget(found: Curves) -> go.Figure:
    figure = _lines(found, "reviewed", "found")
    _add_reference(figure, [0, 1], [0, 1], "random order")
    return figure.update_layout(
        xaxis_title="share of images reviewed, lowest scores first", yaxis_title="share of the errors found", **LAYOUT
    )


def _lines(found: Curves, x: str, y: str) -> go.Figure:
    figure = go.Figure()
    for colour, (name, curve) in zip(cycle(PALETTE), found.items(), strict=False):
        figure.add_scatter(x=curve[x], y=curve[y], mode="lines", name=name, line={"color": colour, "width": 2.5})
    return figure


def _add_reference(figure: go.Figure, x: list[float], y: list[float], name: str) -> None:
    figure.add_scatter(x=x, y=y, mode="lines", name=name, line={"color": NEUTRAL, "dash": "dash"}, hoverinfo="name")


def training(loss: list[float]) -> go.Figure:
    """The loss of each epoch of a training run."""
    figure = go.Figure(go.Scatter(x=np.arange(1, len(loss) + 1), y=loss, mode="lines", line={"color": CORRECT}))
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="loss")
    return figure.update_layout(**{**LAYOUT, "height": 240})
