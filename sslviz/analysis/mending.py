"""What further training did to an encoder: figures of each arm and seed, and differences on the very same images."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from sslviz.analysis.evaluation import Ranked

FIGURES = {
    "top1": "top-1",
    "top1_40": "top-1, 40 % fewer",
    "auroc": "AUROC of Q",
    "auprc": "AUPRC of Q",
    "q_correct_fixed": "Q right, D of the base",
    "q_wrong_fixed": "Q wrong, D of the base",
    "q_correct": "Q right, own D",
    "q_wrong": "Q wrong, own D",
    "q_all_fixed": "Q of all, D of the base",
    "q_all": "Q of all, own D",
    "empty_share": "empty sets",
    "core_correct": "IoU object, right",
    "core_wrong": "IoU object, wrong",
    "spurious_correct": "IoU surroundings, right",
    "spurious_wrong": "IoU surroundings, wrong",
}
"""Figures of an encoder on judged images, and their titles; right, wrong: means over what its own probe gets right or wrong."""
IN_POINTS = {"top1", "top1_40", "auroc", "auprc", "empty_share"}
"""Those that are shown times 100."""
_SPLIT = {"q_{}": "q", "q_{}_fixed": "q_fixed", "core_{}": "core", "spurious_{}": "spurious"}
_MEANS: dict[str, tuple[str, bool | None]] = {
    "top1": ("correct", None),
    "q_all": ("q", None),
    "q_all_fixed": ("q_fixed", None),
    "empty_share": ("empty", None),
    "top1_40": ("correct_40", None),
    **{name.format("correct"): (column, True) for name, column in _SPLIT.items()},
    **{name.format("wrong"): (column, False) for name, column in _SPLIT.items()},
}
_CELLS = 4_000_000  # of draws and images at a time
_DECIMALS = 12  # what is left of sums that cancel must not tell a bound from zero


def figures(images: pd.DataFrame) -> dict[str, float]:
    """The figures of one encoder on judged images; NaN for what is not known.

    images, with what is known of: q, q_fixed (D and eps of the base encoder), empty (bool), correct, correct_40 (on the 60 % of
    the features that are discriminative), core and spurious (IoU). AUROC and AUPRC of q, positive = correct.
    """
    return dict(zip(FIGURES, _Prepared(images).figures(np.ones((1, len(images)), np.int64))[0].tolist(), strict=True))


class _Prepared:
    """Images prepared for many draws: each figure but AUROC and AUPRC is a mean over a part of them."""

    def __init__(self, images: pd.DataFrame) -> None:
        n = len(images)
        right = images["correct"].to_numpy(dtype=bool) if "correct" in images else None
        self.ranked = Ranked(images["q"].to_numpy(dtype=float), right) if right is not None and "q" in images else None
        self.values_NF, self.counted_NF = np.zeros((n, len(FIGURES))), np.zeros((n, len(FIGURES)))
        for k, figure in enumerate(FIGURES):
            column, part = _MEANS.get(figure, ("", None))
            if column in images:
                values = images[column].to_numpy(dtype=float)
                counted = ~np.isnan(values)
                if part is not None:
                    counted &= False if right is None else right == part
                self.values_NF[:, k], self.counted_NF[:, k] = np.where(counted, values, 0), counted

    def figures(self, weights_BN: np.ndarray) -> np.ndarray:
        """float[B, F] of draws int[B, N]: how often each image counts."""
        total = weights_BN @ self.counted_NF
        found: np.ndarray = np.full(total.shape, np.nan)
        np.divide(weights_BN @ self.values_NF, total, out=found, where=total > 0)
        if self.ranked is not None:
            ranked = [self.ranked.weighted(weights) for weights in weights_BN]
            found[:, [list(FIGURES).index(figure) for figure in ("auroc", "auprc")]] = ranked
        return found


def mended_and_broken(before: pd.Series, after: pd.Series) -> tuple[int, int]:
    """How many images only the probe of the second encoder gets right, and only that of the first; bool, index sample_id."""
    both = pd.concat([before.rename("before"), after.rename("after")], axis=1).dropna().astype(bool)
    return int((~both["before"] & both["after"]).sum()), int((both["before"] & ~both["after"]).sum())


def differences(
    arms: Mapping[str, Sequence[pd.DataFrame]], against: Sequence[str], n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """arm, against, figure, mean, low, high, of_seeds: each arm's known figures less those of each arm in `against`.

    arms: name -> the images of each seed (see `figures`), the same images in the same order in all. Seed k is compared with
    seed k of the other arm, or with its only one. mean: over seeds · low, high: 95 %, percentile bootstrap over the images,
    which are drawn alike for all arms and seeds (they say nothing of other seeds) · of_seeds: the difference of each seed.
    Raises ValueError where the images are not the same.
    """
    first = arms[against[0]][0]
    n = len(first)
    if not all(images.index.equals(first.index) for tables in arms.values() for images in tables):
        raise ValueError("arms are compared on the same images in the same order")
    columns = ["arm", "against", "figure", "mean", "low", "high", "of_seeds"]
    if n == 0:
        return pd.DataFrame(columns=columns)
    prepared = {arm: [_Prepared(images) for images in tables] for arm, tables in arms.items()}
    rng, left = np.random.default_rng(seed), n_bootstrap
    points = _of_arms(prepared, np.ones((1, n), np.int64))
    draws = {arm: [np.empty((0, *found.shape[1:]))] for arm, found in points.items()}
    while left:
        step = min(left, max(1, _CELLS // n))
        weights = rng.multinomial(n, np.full(n, 1 / n), size=step)
        for arm, found in _of_arms(prepared, weights).items():
            draws[arm].append(found)
        left -= step
    drawn = {arm: np.concatenate(found) for arm, found in draws.items()}
    rows: list[dict[str, Any]] = []
    for base in against:
        for arm in (arm for arm in arms if arm != base):
            gap, spread = (points[arm] - points[base])[0], (drawn[arm] - drawn[base]).mean(1)
            for k, figure in enumerate(FIGURES):
                if np.isnan(gap[:, k]).any():
                    continue
                known = spread[:, k][~np.isnan(spread[:, k])]
                bounds = np.percentile(known, [2.5, 97.5]) if len(known) >= 20 else np.full(2, np.nan)
                mean, low, high = np.round([gap[:, k].mean(), *bounds], _DECIMALS).tolist()
                row = {"arm": arm, "against": base, "figure": figure, "mean": mean, "low": low, "high": high}
                rows.append({**row, "of_seeds": np.round(gap[:, k], _DECIMALS).tolist()})
    return pd.DataFrame(rows, columns=columns)


def _of_arms(prepared: Mapping[str, Sequence[_Prepared]], weights_BN: np.ndarray) -> dict[str, np.ndarray]:
    """arm -> figures float[B, seeds, F]."""
    return {arm: np.stack([one.figures(weights_BN) for one in seeds], axis=1) for arm, seeds in prepared.items()}


def class_means(H: np.ndarray, labels: np.ndarray, correct: np.ndarray, features: np.ndarray) -> pd.DataFrame:
    """outcome, label, feature, mean, n: class-average representations of unit rows float[N, D], right and wrong images apart."""
    rows = []
    for outcome, part in (("correct", correct), ("wrong", ~correct)):
        for label in np.unique(labels):
            chosen = part & (labels == label)
            if chosen.any():
                means = H[chosen][:, features].mean(0)
                n = int(chosen.sum())
                rows += [(outcome, int(label), int(f), float(m), n) for f, m in zip(features, means, strict=True)]
    return pd.DataFrame(rows, columns=["outcome", "label", "feature", "mean", "n"])


def verdict(differences: pd.DataFrame) -> str:
    """Whether the regulariser gained accuracy over the control that was trained as long; without its arm a sentence for each
    other one, "" where nothing is known. Then, where that is so, that the control lost against the base."""
    top1 = differences[differences["figure"] == "top1"].set_index("arm")
    found, alone = (top1[top1["against"] == against] for against in ("control", "base"))
    arms = ["both"] if "both" in found.index else [arm for arm in found.index if arm != "base"]
    names = {"both": ("The regulariser", "")}
    said = [_gained(found.loc[arm], *names.get(arm, (f"Arm {arm}", f" of arm {arm}"))) for arm in arms]
    control: Any = alone.loc["control"] if "control" in alone.index else None
    if control is not None and told(control["low"], control["high"]) == "loss":
        said.append(
            f"Training on alone, without the terms, loses: top-1 {_points(control)} compared with the base; "
            "try a lower learning rate."
        )
    return " ".join(said)


def _gained(row: Any, who: str, of: str) -> str:
    seeds = np.asarray(row["of_seeds"])
    positive = f"; positive in {(seeds > 0).sum()} of {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    gain = f"{_points(row, positive)} compared with the control"
    words = {
        "gain": f"{who} gains: top-1 {gain}, on these images.",
        "loss": f"{who} loses: top-1 {gain}, on these images.",
        "unclear": f"No gain{of} over the control is distinguishable from zero: top-1 {gain}.",
    }
    return words[told(float(row["low"]), float(row["high"]))]


def _points(row: Any, more: str = "") -> str:
    mean, low, high = (f"{100 * row[value]:+z.1f}" for value in ("mean", "low", "high"))
    return f"{mean} points (95 % over images {low} to {high}{more})"


def told(low: float, high: float) -> Literal["gain", "loss", "unclear"]:
    """What an interval of a difference says: on one side of zero or not."""
    return "gain" if low > 0 else "loss" if high < 0 else "unclear"
