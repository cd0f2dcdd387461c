"""Charts of compression curves: tables in, plotly figures out; no Streamlit here."""

import pandas as pd
import plotly.graph_objects as go

from sslviz.analysis.compression import FROM_BOTTOM
from sslviz.ui.figures.scores import CORRECT, LAYOUT, NEUTRAL, PALETTE, as_typed

COLOURS = {"discriminative": CORRECT, "random": NEUTRAL, "lower tail": "#E69F00", "upper tail": "#009E73", "pca": "#CC79A7"}
NAMES = {"pca": "principal components"}


def lines(table: pd.DataFrame) -> pd.DataFrame:
    """One row a kind and reduction of a compression curve: mean top1 over seeds; low and high, the bootstrap interval, or of
    several subsets the lowest and highest. The full width stands at reduction 0 of every kind."""
    full = table[table["kind"] == "full"].iloc[0]
    grouped = table[table["kind"] != "full"].groupby(["kind", "reduction", "n_features"], sort=False)
    found = grouped.agg(top1=("top1", "mean"), least=("top1", "min"), most=("top1", "max"), seeds=("top1", "size"))
    found = found.join(grouped.agg(low=("low", "mean"), high=("high", "mean"))).reset_index()
    several = found["seeds"] > 1
    found.loc[several, "low"], found.loc[several, "high"] = found["least"], found["most"]
    start = {"reduction": 0.0, "n_features": full["n_features"], "top1": full["top1"], "low": full["low"], "high": full["high"]}
    starts = pd.DataFrame([{"kind": kind, **start} for kind in found["kind"].unique()])
    starts.loc[starts["kind"] == "random", ["low", "high"]] = full["top1"]  # one full width, whatever the seed
    columns = ["kind", "reduction", "n_features", "top1", "low", "high"]
    return pd.concat([starts, found])[columns].sort_values(["kind", "reduction"], ignore_index=True)


def which(kind: str, reduction: float) -> str:
    """The features of a subset in words: between which percentiles of the activation shares, or how else they were taken."""
    if reduction == 0:
        return "all"
    if kind not in FROM_BOTTOM:
        return {"random": "drawn at random, four times", "pca": "of the features' correlations"}[kind]
    low = 100 * reduction * FROM_BOTTOM[kind]
    return f"percentiles {low:.0f} to {low + 100 * (1 - reduction):.0f}"


def curves(found: pd.DataFrame, kinds: list[str]) -> go.Figure:
    """`lines` of one encoder: top-1 against the share of features that went, with bands for discriminative and random subsets."""
    figure = go.Figure()
    for kind in kinds:
        part = found[found["kind"] == kind]
        if kind in ("discriminative", "random"):
            _add_band(figure, part, COLOURS[kind])
        _add_line(figure, part, NAMES.get(kind, kind), COLOURS[kind], dash="dot" if kind == "random" else "solid")
    full = found[found["reduction"] == 0].iloc[0]
    figure.add_hline(y=100 * full["top1"], line={"color": NEUTRAL, "width": 1, "dash": "dash"})
    return _finish(figure)


def encoders(found: dict[str, pd.DataFrame], kind: str) -> go.Figure:
    """The curve of one kind for several encoders."""
    figure = go.Figure()
    for k, (name, table) in enumerate(found.items()):
        _add_line(figure, table[table["kind"] == kind], as_typed(name), PALETTE[k % len(PALETTE)])
    return _finish(figure)


def _add_line(figure: go.Figure, part: pd.DataFrame, name: str, colour: str, dash: str = "solid") -> None:
    taken = [which(*row) for row in zip(part["kind"], part["reduction"], strict=True)]
    figure.add_scatter(
        x=100 * part["reduction"],
        y=100 * part["top1"],
        mode="lines+markers",
        name=name,
        line={"color": colour, "dash": dash},
        customdata=part[["n_features", "low", "high"]].assign(low=100 * part["low"], high=100 * part["high"], taken=taken),
        hovertemplate="%{x:.0f} % less, %{customdata[0]} features (%{customdata[3]}): %{y:.1f} % "
        "(%{customdata[1]:.1f} to %{customdata[2]:.1f})",
    )


def _add_band(figure: go.Figure, part: pd.DataFrame, colour: str) -> None:
    x, low, high = 100 * part["reduction"], 100 * part["low"], 100 * part["high"]
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.15)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def _finish(figure: go.Figure) -> go.Figure:
    figure.update_xaxes(title="features left out, %", range=[-2, 92])
    figure.update_yaxes(title="top-1 of the linear probe, %")
    legend = {"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0}
    return figure.update_layout(**{**LAYOUT, "height": 460, "legend": legend, "hovermode": "closest"})
