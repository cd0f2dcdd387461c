"""The damage check (ours): does a score fall when the picture is damaged? No labels are used.

docs/evidence.md has what it has said so far, and why no conclusion is drawn from it.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sslviz.progress import Progress

if TYPE_CHECKING:
    from sslviz.analysis.features import FeatureSelection
    from sslviz.encoders.run import Encoder
    from sslviz.jobs.inputs import Embedded
    from sslviz.store.results import Result

_BATCH = 50


def check_damage(
    embedded: "Embedded",
    encoder: "Encoder",
    selection: "FeatureSelection",
    train: tuple[np.ndarray, np.ndarray] | None,
    probe: "Result | None",
    n: int,
    seed: int,
    progress: Progress,
) -> pd.DataFrame:
    """damage, score, falls (share of the pictures whose score falls, equal scores count half), low, high (95 %, bootstrap), n.

    `train`: row numbers and embeddings the neighbours come from, None without neighbour rivals; `probe`: its result, or None.
    Pictures: a seeded sample of the judged split; those that cannot be read now are left out.
    """
    import torch

    from sslviz.arrays import positions
    from sslviz.data.damages import DAMAGES, damage
    from sslviz.data.loading import ahead, read_picture

    split = embedded.judged_on or "train"
    samples = embedded.samples[embedded.samples["split"] == split]
    samples = samples.sample(min(n, len(samples)), random_state=seed).sort_values("row")
    spec, root = encoder.spec.input, embedded.dataset.root
    bf16 = embedded.store.meta["depends"]["precision"] == "bf16"  # as the stored embeddings were made
    progress.stage("damage check", len(samples))
    pictures = ahead(lambda s: read_picture(root / s, spec.resize, spec.size, thumb=False), samples["sample_id"].tolist(), 2, 64)
    own = np.full(len(samples), -1)
    if train is not None:
        own = positions(samples["row"].to_numpy(), train[0])
    there: list[bool] = []
    embeddings: dict[str, list[np.ndarray]] = {name: [] for name in ("", *DAMAGES)}
    batch: list[torch.Tensor] = []
    for loaded in pictures:
        there.append(loaded.pixels is not None)
        if loaded.pixels is not None:
            batch.append(loaded.pixels)
        if batch and (len(batch) == _BATCH or len(there) == len(samples)):
            stacked = torch.stack(batch)
            for name, parts in embeddings.items():
                parts.append(encoder.embed(damage(stacked, name, seed) if name else stacked, bf16=bf16).cpu().numpy())
            batch.clear()
        progress.advance()
    if not embeddings[""]:
        return pd.DataFrame(columns=["damage", "score", "falls", "low", "high", "n"])
    score = _Scores(selection, None if train is None else train[1], probe)
    tables = {name: score(np.concatenate(parts), own[there]) for name, parts in embeddings.items()}
    intact = tables.pop("")
    rows = []
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(intact), (1000, len(intact)))
    for name, damaged in tables.items():
        for column in intact:
            falls = (damaged[column] < intact[column]) + 0.5 * (damaged[column] == intact[column])
            low, high = np.percentile(falls.to_numpy()[draws].mean(1), [2.5, 97.5])
            rows.append((name, column, float(falls.mean()), float(low), float(high), len(intact)))
    return pd.DataFrame(rows, columns=["damage", "score", "falls", "low", "high", "n"])


class _Scores:
    """Q and its rivals of any embeddings, as one table."""

    def __init__(self, selection: "FeatureSelection", H_train: np.ndarray | None, probe: "Result | None") -> None:
        self.selection, self.H_train = selection, H_train
        self.weights = None if probe is None else np.load(probe.folder / "weights.npz", allow_pickle=False)

    def __call__(self, H: np.ndarray, own: np.ndarray) -> pd.DataFrame:
        from sslviz.analysis.probe import probabilities
        from sslviz.analysis.rivals import RIVALS, RivalInput, nearest_neighbours
        from sslviz.analysis.rows import score_rows

        rows = score_rows(H, self.selection.features, self.selection.eps)
        near = None if self.H_train is None else nearest_neighbours(H, self.H_train, own).similarities
        confidence = None if self.weights is None else probabilities(H, self.weights).max(1)
        given = RivalInput(rows, near, confidence)
        values = {"q": rows.q, **{name: RIVALS[name].score(given) for name in RIVALS}}
        return pd.DataFrame({name: v for name, v in values.items() if v is not None})
