"""Charts of a fine-tuning: tables in, plotly figures out; no Streamlit here."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sslviz.analysis.mending import FIGURES, IN_POINTS
from sslviz.ui.figures.scores import CORRECT, LAYOUT, NEUTRAL, as_typed

COLOURS = {
    "base": "#000000",
    "control": NEUTRAL,
    "both": CORRECT,
    "lambda1": "#56B4E9",
    "lambda2": "#009E73",
    "lasso": "#E69F00",
    "strong": "#CC79A7",
}


def differences(table: pd.DataFrame, figure: str) -> go.Figure:
    """One figure's differences (arm, mean, low, high, of_seeds): a mark and its interval for each arm, a cross for each seed."""
    chart = go.Figure()
    factor = 100 if figure in IN_POINTS else 1
    part = table[table["figure"] == figure]
    for row in part.to_dict("records"):
        name, colour = row["arm"], COLOURS[row["arm"]]
        seeds = factor * np.asarray(row["of_seeds"], dtype=float)
        error = {"array": [factor * (row["high"] - row["mean"])], "arrayminus": [factor * (row["mean"] - row["low"])]}
        chart.add_scatter(
            x=[factor * row["mean"]],
            y=[name],
            error_x={"type": "data", **error},
            mode="markers",
            marker={"color": colour, "size": 11},
            hovertemplate="%{y}: %{x:+.4g}<extra></extra>",
        )
        chart.add_scatter(
            x=seeds, y=[name] * len(seeds), mode="markers", marker={"color": colour, "size": 5, "symbol": "x"}, hoverinfo="x"
        )
    chart.add_vline(x=0, line={"color": NEUTRAL, "dash": "dash", "width": 1})
    chart.update_xaxes(title=FIGURES[figure] + (", points" if factor == 100 else ""))
    chart.update_yaxes(autorange="reversed")
    return chart.update_layout(**{**LAYOUT, "height": 120 + 44 * len(part), "showlegend": False})


def curve(
    curves: pd.DataFrame, columns: dict[str, str], title: str, factor: float = 1.0, log: bool = False, least: float = 0.0
) -> go.Figure:
    """Columns of the training curves (arm, seed, epoch, ...) against the epoch: a colour for each arm, a dash for each column.
    log: on a logarithmic axis, without what is 0 · least: the axis spans at least so much, lest noise look like a rise."""
    chart = go.Figure()
    for (arm, seed), part in curves.groupby(["arm", "seed"], sort=False):
        for (column, name), dash in zip(columns.items(), ("solid", "dot"), strict=False):
            known = part.dropna(subset=[column])
            if log:
                known = known[known[column] != 0]
            if known.empty:
                continue
            chart.add_scatter(
                x=known["epoch"],
                y=factor * known[column],
                mode="lines+markers",
                marker={"size": 4},
                line={"color": COLOURS[str(arm)], "dash": dash},
                name=" ".join(part for part in (str(arm), name) if part),
                legendgroup=f"{arm}{column}",
                showlegend=bool(seed == curves.loc[curves["arm"] == arm, "seed"].iloc[0]),
                hovertemplate=f"{arm}, seed {seed}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
            )
    chart.update_xaxes(title="epoch", rangemode="tozero", dtick=1 if curves["epoch"].max() <= 12 else None)
    chart.update_yaxes(title=title, type="log" if log else "linear", exponentformat="power")
    values = factor * curves[list(columns)].stack()
    if least and len(values) and values.max() - values.min() < least:
        middle = (values.max() + values.min()) / 2
        chart.update_yaxes(range=[middle - least / 2, middle + least / 2])
    return chart.update_layout(**{**LAYOUT, "legend": {**LAYOUT["legend"], "font": {"size": 11}}})


def panels(table: pd.DataFrame, titles: dict[int, str], names: tuple[str, str]) -> go.Figure:
    """Class-average representations (arm, outcome, label, feature, mean) of two arms: rows classes, columns features; right and
    wrong images below one another, one scale for all."""
    arms = list(dict.fromkeys(table["arm"]))
    chart = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=[f"{as_typed(name)}: {outcome}" for outcome in ("right", "wrong") for name in names],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.09,
    )
    for r, outcome in enumerate(("correct", "wrong")):
        for c, arm in enumerate(arms):
            part = table[(table["arm"] == arm) & (table["outcome"] == outcome)]
            grid = part.pivot(index="label", columns="feature", values="mean").reindex(index=sorted(titles))
            chart.add_heatmap(
                z=grid.to_numpy(),
                x=[str(f) for f in grid.columns],
                y=[as_typed(titles[k]) for k in grid.index],
                coloraxis="coloraxis",
                hovertemplate="%{y}, feature %{x}: %{z:.3f}<extra></extra>",
                row=r + 1,
                col=c + 1,
            )
    chart.update_annotations(font_size=12)
    chart.update_xaxes(type="category", showticklabels=False)
    chart.update_xaxes(title="features of D", row=2)
    chart.update_yaxes(autorange="reversed")
    layout = {
        **LAYOUT,
        "height": 180 + 44 * max(4, len(titles)),
        "coloraxis": {"colorscale": "Viridis", "colorbar": {"title": "mean h"}},
    }
    return chart.update_layout(**layout)
