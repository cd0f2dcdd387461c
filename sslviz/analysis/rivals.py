"""Other scores that a Q-Score has to be seen next to (ours; docs/method.md 2). A new rival is one function here."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sslviz.analysis.expression import unit_rows
from sslviz.analysis.rows import RowScores
from sslviz.arrays import Array, check_embeddings, check_labels, is_torch
from sslviz.errors import InputError
from sslviz.registry import Registry

MAX_TRAIN_ROWS = 50_000
NEIGHBOURS = 10


@dataclass(frozen=True)
class RivalInput:
    """What a rival may look at: the row pass, similarities to the nearest train rows float[N, 10] in falling order (None when
    left out), and the probe's maximum softmax probability float[N] (None without labels)."""

    rows: RowScores
    similarities: np.ndarray | None
    confidence: np.ndarray | None


@dataclass(frozen=True)
class Rival:
    """A score, higher = better represented. `score` returns None where its input is missing."""

    title: str
    uses_labels: bool
    score: Callable[[RivalInput], np.ndarray | None]


RIVALS: Registry[Rival] = Registry("rival score")

RIVALS.register("norm")(Rival("L2 norm of the raw embedding", False, lambda x: x.rows.norm))
RIVALS.register("std")(Rival("standard deviation of h", False, lambda x: x.rows.std))
RIVALS.register("nn1")(
    Rival(
        "similarity to the nearest train image",
        False,
        lambda x: None if x.similarities is None else x.similarities[:, 0],
    )
)
RIVALS.register("nn10")(
    Rival(
        "mean similarity to the 10 nearest train images",
        False,
        lambda x: None if x.similarities is None else x.similarities.mean(1),
    )
)
RIVALS.register("msp")(
    Rival(
        "probe's maximum softmax probability (uses labels)",
        True,
        lambda x: x.confidence,
    )
)


def best_label_free(aurocs: Mapping[str, float | None]) -> str | None:
    """The rival with the highest AUROC of those that use no labels; None where none has one. Other names are passed over."""
    known = {n: v for n, v in aurocs.items() if n in RIVALS.names() and not RIVALS[n].uses_labels and v is not None}
    return max(known, key=lambda n: known[n]) if known else None


class Neighbours(NamedTuple):
    """Of each sample its nearest train samples: cosine similarity float32[N, k] in falling order, and their rows int64[N, k]."""

    similarities: np.ndarray
    rows: np.ndarray


def nearest_neighbours(
    H: Array, H_train: Array, own_row: Array | None = None, k: int = NEIGHBOURS, block: int = 2048
) -> Neighbours:
    """The k nearest train samples of each sample by cosine similarity.

    H float[N, D] · H_train float[M, D] · own_row int[N]: the row of H_train that is the sample itself and is left out, -1 for
    none. With fewer than k train rows the last neighbour is repeated (where there is none at all: row -1, similarity -1); a
    zero row has similarity 0 to everything. Raises InputError: wrong rank, empty, NaN or infinity, widths that differ.
    """
    import torch

    h = _unit(check_embeddings(H))
    train = _unit(check_embeddings(H_train, "H_train"))
    if h.shape[1] != train.shape[1]:
        raise InputError(f"H has {h.shape[1]} features and H_train {train.shape[1]}; expected as many.")
    own = None if own_row is None else torch.from_numpy(check_labels(own_row, len(h), "own_row"))
    usable = min(k + 1, len(train)) if own is not None else min(k, len(train))
    similarities, places = torch.zeros(len(h), k), torch.zeros(len(h), k, dtype=torch.long)
    for start in range(0, len(h), block):
        near = h[start : start + block] @ train.T
        if own is not None:
            mine = own[start : start + block]
            rows = torch.nonzero(mine >= 0)[:, 0]
            near[rows, mine[rows]] = -2.0
        best, at = (found[:, :k] for found in near.topk(usable, dim=1))
        others = best > -1.5  # the sample itself stands last
        last = others.sum(1, keepdim=True).clamp_min(1) - 1
        at = torch.where(others, at, torch.where(others[:, :1], at.gather(1, last), -1))
        best = torch.where(others, best, best.gather(1, last).clamp_min(-1.0))
        for out, found in ((similarities, best), (places, at)):
            out[start : start + len(found), : found.shape[1]] = found
            out[start : start + len(found), found.shape[1] :] = found[:, -1:]
    return Neighbours(similarities.numpy(), places.numpy())


def _unit(H: Array) -> Array:
    import torch

    tensor = H.detach().cpu() if is_torch(H) else torch.from_numpy(np.require(H, requirements=["C", "W"]))
    return unit_rows(tensor).float()


def score_titles(columns: Iterable[str]) -> dict[str, str]:
    """The scores among these columns, as people read them: Q, as in the paper, and its rivals."""
    titles = {"q": "Q-Score", "q_paper": "Q-Score as in the paper", **{name: RIVALS[name].title for name in RIVALS}}
    return {name: title for name, title in titles.items() if name in columns}
