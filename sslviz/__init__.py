"""Discriminative features and Q-Scores of self-supervised image encoders.

Public names are loaded on first use: importing sslviz imports neither torch nor streamlit.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslviz.analysis.compression import compression_curve
    from sslviz.analysis.evaluation import ScoreReport, evaluate_score
    from sslviz.analysis.features import (
        ActivationCounts,
        FeatureSelection,
        activation_share,
        discriminative_features,
        highly_activating,
        select_features,
    )
    from sslviz.analysis.probe import ProbeResult, linear_probe
    from sslviz.analysis.rank import alpha_req, rank_me
    from sslviz.analysis.score import q_score

__version__ = "0.1.0"

_HOME = {
    "ActivationCounts": "features",
    "FeatureSelection": "features",
    "ProbeResult": "probe",
    "ScoreReport": "evaluation",
    "activation_share": "features",
    "alpha_req": "rank",
    "compression_curve": "compression",
    "discriminative_features": "features",
    "evaluate_score": "evaluation",
    "highly_activating": "features",
    "linear_probe": "probe",
    "q_score": "score",
    "rank_me": "rank",
    "select_features": "features",
}

__all__ = [
    "ActivationCounts",
    "FeatureSelection",
    "ProbeResult",
    "ScoreReport",
    "activation_share",
    "alpha_req",
    "compression_curve",
    "discriminative_features",
    "evaluate_score",
    "highly_activating",
    "linear_probe",
    "q_score",
    "rank_me",
    "select_features",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sslviz' has no attribute {name!r}")
    return getattr(import_module(f"sslviz.analysis.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
