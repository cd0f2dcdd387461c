"""Charts of heatmaps against masks: tables in, plotly figures out; no Streamlit here."""

import pandas as pd
import plotly.graph_objects as go

from sslviz.analysis.looks import WHO
from sslviz.ui.figures.scores import CORRECT, LAYOUT, NEUTRAL, WRONG

COLOURS = {"core": "#009E73", "spurious": WRONG}
_BELOW = {"orientation": "h", "y": -0.3, "yanchor": "top", "x": 0}
"""Above a narrow chart a legend of four lies on the marks."""
_SYMBOLS = {"blob": "circle-open", "uniform": "square-open", "shuffled": "x-thin-open", "ceiling": "line-ew-open"}


def overlap(groups: pd.DataFrame, measure: str) -> go.Figure:
    """mIoU (rows of one metric: kind, group, who, mean, low, high) as bars with intervals, base rates as marks beside them."""
    figure = go.Figure()
    names = [f"{kind}, {group}" for kind in COLOURS for group in dict.fromkeys(groups["group"])]
    groups = groups.assign(name=groups["kind"] + ", " + groups["group"])
    mine = groups[groups["who"] == "map"].set_index("name").reindex(names)
    figure.add_bar(
        x=names,
        y=mine["mean"],
        name=WHO["map"],
        marker_color=[COLOURS[name.split(",")[0]] for name in names],
        error_y={"array": mine["high"] - mine["mean"], "arrayminus": mine["mean"] - mine["low"], "color": NEUTRAL},
        hovertemplate="%{x}: %{y:.3f}<extra></extra>",
        width=0.55,
        showlegend=False,
    )
    for who, symbol in _SYMBOLS.items():
        part = groups[groups["who"] == who].set_index("name").reindex(names)
        marker = {"symbol": symbol, "size": 26 if who == "ceiling" else 11, "color": NEUTRAL, "line": {"width": 2}}
        figure.add_scatter(x=names, y=part["mean"], mode="markers", name=WHO[who], marker=marker, hovertemplate="%{x}: %{y:.3f}")
    figure.update_yaxes(title=measure, range=[0, 1])
    return figure.update_layout(**{**LAYOUT, "height": 420, "legend": _BELOW})


def thresholds(curve: pd.DataFrame) -> go.Figure:
    """mIoU against the heatmap's threshold (kind, group, threshold, miou): right solid, wrong dotted."""
    figure = go.Figure()
    dashes = {"correct": "solid", "wrong": "dot", "all": "dash"}
    for (kind, group), part in curve.groupby(["kind", "group"], sort=False):
        line = {"color": COLOURS[str(kind)], "dash": dashes[str(group)]}
        figure.add_scatter(x=part["threshold"], y=part["miou"], mode="lines+markers", name=f"{kind}, {group}", line=line)
    figure.update_xaxes(title="threshold of the heatmap")
    figure.update_yaxes(title="mean IoU", rangemode="tozero")
    return figure.update_layout(**{**LAYOUT, "height": 360, "legend": _BELOW})


def features(table: pd.DataFrame) -> go.Figure:
    """Each feature by the share of its map inside the core mask, against the share of the picture that this mask is."""
    most = float(max(table["core"].max(), table["core_area"].max(), 0.1))
    figure = go.Figure()
    figure.add_scatter(x=[0, most], y=[0, most], mode="lines", line={"color": NEUTRAL, "dash": "dash"}, hoverinfo="skip")
    figure.add_scatter(
        x=table["core_area"],
        y=table["core"],
        mode="markers",
        marker={"color": CORRECT, "size": 7, "opacity": 0.7},
        customdata=table[["feature", "n"]],
        hovertemplate="feature %{customdata[0]}, fires in %{customdata[1]} images: %{y:.2f} of its map on the object, "
        "which is %{x:.2f} of those pictures<extra></extra>",
    )
    figure.update_xaxes(title="object's share of the pictures it fires in")
    figure.update_yaxes(title="share of its map on the object")
    return figure.update_layout(**LAYOUT, showlegend=False)
