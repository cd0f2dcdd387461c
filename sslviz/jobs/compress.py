"""How many features are enough? Linear probes on subsets of the features, of many sizes."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sslviz.errors import InputError
from sslviz.jobs import EmbeddedDataset, Eps, Seed, Settings, StoredEncoder, job
from sslviz.progress import Progress, while_checking
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    from sslviz.analysis.compression import Subset

_SAVE_EVERY = 5.0  # seconds


class CompressSettings(Settings):
    dataset: EmbeddedDataset
    encoder: StoredEncoder
    eps: Eps = "auto"
    l2: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="L2 strength of all probes; default chosen at full width"
    )
    seed: Seed = Field(0, description="random seed of folds and intervals")


@job("compress", CompressSettings, example="sslviz compress --dataset photos --encoder simclr")
def compress(settings: CompressSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Judge probes on fewer and fewer features: discriminative ones, random ones, tails, principal components (needs labels)."""
    import numpy as np
    import pandas as pd

    from sslviz.analysis import compression
    from sslviz.analysis.probe import at_an_end, choose_l2, held_out
    from sslviz.jobs.inputs import open_embedded
    from sslviz.store.files import only_writer
    from sslviz.store.fingerprints import fingerprint
    from sslviz.store.results import save_result

    embedded = open_embedded(workspace, settings.dataset, settings.encoder)
    store, samples = embedded.store, embedded.samples
    train, judged_on = samples[samples["split"] == "train"], embedded.judged_on
    notes = embedded.lonely(embedded.class_counts())
    chosen = embedded.selected(embedded.rows("train"), settings.eps, progress)
    if judged_on is None:
        train = train[train["label"] >= 0]
        out = held_out(train["label"].to_numpy(), settings.seed)
        train, test = train[~out], train[out]
        notes.append(
            "there is no test split: a fifth of the train images is held out and judged; features are ranked by how often they "
            "fire in all train images, these included"
        )
    else:
        test = samples[samples["split"] == judged_on]
    known = test["label"].isin(train["label"]) & (test["label"] >= 0)
    if n_unknown := int((~known).sum()):
        notes.append(f"{n_unknown:,} images have no class that occurs in train and are not judged")
    test = test[known]
    if test.empty:
        split = judged_on or "held-out train"
        raise InputError(f'no {split} image of "{settings.dataset}" has a class that occurs in train: nothing to judge on.')

    progress.stage("reading embeddings")
    too_large = embedded.too_large(3 * len(train))  # standardised rows, those of a subset and of the next
    fits_all = not embedded.too_large(3 * len(train) + len(test))
    design = embedded.design(train, held=not too_large)
    notes += [too_large] if too_large else []
    if n_constant := design.n_features - len(design.columns):
        notes.append(
            f"{n_constant} features never change over the train images and help no probe: subsets of any kind may spend places "
            "on them"
        )
    if chosen.sparse:
        notes.append("even at the smallest eps few features fire: their order by activation shares says little")
    rows = test["row"].to_numpy()
    judged = [store.read(rows)] if fits_all else None
    progress.stage("choosing the L2 strength")
    strength = while_checking(lambda: choose_l2(design, settings.seed), progress) if settings.l2 is None else settings.l2
    if settings.l2 is None and (words := at_an_end(strength)):
        notes.append(words)

    todo = compression.n_probes()
    progress.stage("fitting probes", todo)
    kept = None if progress.folder is None else progress.folder / f"probes-{fingerprint([embedded.inputs, strength])[:12]}.npz"
    probes, saved = list[compression.Subset](), time.monotonic()
    coming = compression.curve(
        design,
        chosen.shares,
        lambda: judged or (block for _, block in store.blocks(rows)),
        test["label"].to_numpy(),
        strength,
        done=[] if kept is None else _read(kept, chosen.shares),
    )
    while len(probes) < todo:
        probes.append(while_checking(lambda: next(coming), progress))
        if kept is not None and time.monotonic() - saved > _SAVE_EVERY:
            _write(kept, probes)
            saved = time.monotonic()
        progress.advance()

    found = compression.drops(probes, seed=settings.seed)
    full = probes[0].correct.mean()
    slow = [p for p in probes if not p.converged]
    if slow:
        notes.append(f"{len(slow)} of {len(probes)} probes stopped without converging")
    for note in notes:
        progress.warn(note)
    summary = {
        "judged_on": judged_on or "held-out train",
        "n_judged": len(test),
        "n_unknown": n_unknown,
        "n_constant": n_constant,
        "n_classes": len(design.classes),
        "n_features": design.n_features,
        "top1": float(full),
        "eps": chosen.eps,
        "l2": strength,
        "at_40": {d.kind: asdict(d) for d in found if d.reduction == 0.4},
        "enough": {
            kind: {f"{points:g}": compression.enough(found, kind, points) for points in (1, 2)} for kind in compression.KINDS
        },
        "notes": notes,
    }
    tables = {
        "curve": compression.table(probes),
        "drops": pd.DataFrame([{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(d).items()} for d in found]),
        "shares": pd.DataFrame({"feature": np.arange(design.n_features), "share": chosen.shares}),
    }
    folder = workspace.results(settings.dataset, settings.encoder, "compress")
    with only_writer(folder, f"the compression curve of {settings.dataset} by {settings.encoder}"):
        plain = settings.model_dump(mode="json", exclude={"dataset", "encoder"})
        save_result(folder, plain, embedded.inputs, tables, summary)
    return {"dataset": settings.dataset, "encoder": settings.encoder, **summary}


def _write(path: Path, probes: "list[Subset]") -> None:
    """What a resumed run needs not fit again."""
    import numpy as np

    from sslviz.store.files import whole_file

    with whole_file(path) as beside, beside.open("wb") as handle:
        np.savez(
            handle,
            kind=[p.kind for p in probes],
            reduction=[p.reduction for p in probes],
            seed=[-1 if p.seed is None else p.seed for p in probes],
            n_features=[p.n_features for p in probes],
            converged=[p.converged for p in probes],
            iterations=[p.iterations for p in probes],
            correct=np.stack([p.correct for p in probes]),
        )


def _read(path: Path, shares: Any) -> "list[Subset]":
    import numpy as np

    from sslviz.analysis.compression import Subset, subset

    if not path.exists():
        return []
    with np.load(path, allow_pickle=False) as found:
        rows = zip(
            *(found[c] for c in ("kind", "reduction", "seed", "n_features", "converged", "iterations", "correct")), strict=True
        )
        return [
            Subset(
                kind=str(kind),
                reduction=float(reduction),
                seed=None if seed < 0 else int(seed),
                n_features=int(n),
                features=None if kind == "pca" else subset(shares, str(kind), float(reduction), max(int(seed), 0)),
                correct=correct,
                converged=bool(converged),
                iterations=int(iterations),
            )
            for kind, reduction, seed, n, converged, iterations, correct in rows
            if kind != "full"
        ]
