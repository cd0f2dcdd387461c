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
    from sslviz.analysis.masks import mask_iou
    from sslviz.analysis.probe import ProbeResult, linear_probe
    from sslviz.analysis.rank import alpha_req, rank_me
    from sslviz.analysis.score import q_score
    from sslviz.heatmaps import explain, feature_maps
    from sslviz.monitor import QScoreMonitor
    from sslviz.training.regulariser import Regulariser, RegulariserWeights

__version__ = "0.1.0"

_HOME = {
    "ActivationCounts": "analysis.features",
    "FeatureSelection": "analysis.features",
    "ProbeResult": "analysis.probe",
    "QScoreMonitor": "monitor",
    "Regulariser": "training.regulariser",
    "RegulariserWeights": "training.regulariser",
    "ScoreReport": "analysis.evaluation",
    "activation_share": "analysis.features",
    "alpha_req": "analysis.rank",
    "compression_curve": "analysis.compression",
    "discriminative_features": "analysis.features",
    "evaluate_score": "analysis.evaluation",
    "explain": "heatmaps",
    "feature_maps": "heatmaps",
    "highly_activating": "analysis.features",
    "linear_probe": "analysis.probe",
    "mask_iou": "analysis.masks",
    "q_score": "analysis.score",
    "rank_me": "analysis.rank",
    "select_features": "analysis.features",
}

__all__ = [
    "ActivationCounts",
    "FeatureSelection",
    "ProbeResult",
    "QScoreMonitor",
    "Regulariser",
    "RegulariserWeights",
    "ScoreReport",
    "activation_share",
    "alpha_req",
    "compression_curve",
    "discriminative_features",
    "evaluate_score",
    "explain",
    "feature_maps",
    "highly_activating",
    "linear_probe",
    "mask_iou",
    "q_score",
    "rank_me",
    "select_features",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sslviz' has no attribute {name!r}")
    return getattr(import_module(f"sslviz.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
