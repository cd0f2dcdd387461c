"""Charts of two and more encoders side by side; no Streamlit here."""

import pandas as pd
import plotly.graph_objects as go

from sslviz.ui.figures import projection
from sslviz.ui.figures.scores import CORRECT, LAYOUT, NEUTRAL, WRONG, as_typed

BOTH_RIGHT, BOTH_WRONG, UNKNOWN = "both right", "both wrong", "not judged"
ONLY_FIRST, ONLY_SECOND = CORRECT, "#009E73"


def cases(first: pd.Series, second: pd.Series, names: tuple[str, str]) -> pd.Series:
    """Which of two probes gets each image right, in words, of their `correct` columns (missing where not judged)."""
    known = first.notna() & second.notna()
    a, b = first.fillna(False).astype(bool), second.fillna(False).astype(bool)
    out = pd.Series(UNKNOWN, index=first.index, dtype=object)
    out[known & a & b] = BOTH_RIGHT
    out[known & ~a & ~b] = BOTH_WRONG
    out[known & a & ~b] = f"only {names[0]} right"
    out[known & ~a & b] = f"only {names[1]} right"
    return out


def matched(table: pd.DataFrame, names: tuple[str, str]) -> go.Figure:
    """Each image by the Q-Score of one encoder (x) and of another (y); `case`: what `cases` says; hover as on the map."""
    fixed = {BOTH_RIGHT: NEUTRAL, UNKNOWN: NEUTRAL, BOTH_WRONG: WRONG}
    colours = {**fixed, f"only {names[0]} right": ONLY_FIRST, f"only {names[1]} right": ONLY_SECOND}
    figure = projection.scatter(table, "case", table.head(0), colours=colours)
    figure.update_xaxes(visible=True, title=as_typed(f"Q-Score by {names[0]}"))
    figure.update_yaxes(visible=True, title=as_typed(f"Q-Score by {names[1]}"), scaleanchor=False)
    return figure.update_layout(height=460, legend=LAYOUT["legend"], margin=LAYOUT["margin"])


def consistency(table: pd.DataFrame) -> go.Figure:
    """Error consistency of each pair of encoders, as a square of numbers; missing where there is none."""
    names = [as_typed(name) for name in table.columns]
    figure = go.Figure(
        go.Heatmap(
            z=table.to_numpy(float),
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            texttemplate="%{z:.2f}",
            hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
            colorbar={"thickness": 12},
        )
    )
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(**{**LAYOUT, "height": 120 + 34 * len(table)})
