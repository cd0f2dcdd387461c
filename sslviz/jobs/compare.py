"""Encoders side by side on one data set, with two controls: the same network with random weights, and the bare pixels."""

import time
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sslviz.errors import Busy, InputError
from sslviz.jobs import Settings, job
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    from sslviz.data.dataset import Dataset

_PAUSE = 1.0  # seconds
_PIXELS = 16  # side: 768 features, as wide as the encoders beside it


class CompareSettings(Settings):
    dataset: str = Field(description="data set in the workspace")
    encoders: list[str] = Field([], description="encoders to compare; give it again for each; default all that are scored")
    controls: bool = Field(True, description="add the network with random weights, and raw pixels")
    project: bool = Field(False, description="also make the map of each encoder that is computed")


@job("compare", CompareSettings, example="sslviz compare --dataset demo --encoders simclr-demo --encoders byol-demo")
def compare(settings: CompareSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Compare encoders on a data set: probe, Q-Score and rivals, sparsity, rank; what is missing is computed first."""
    from sslviz.data import dataset as datasets
    from sslviz.jobs.analyze import AnalyzeSettings, analyze
    from sslviz.jobs.inputs import result_state

    dataset, _ = datasets.refresh(workspace, settings.dataset)
    names = list(settings.encoders) or scored(workspace, dataset)
    for name in names:
        workspace.existing_encoder(name)
    if not names:
        raise InputError(
            f'no encoder is scored on "{dataset.name}" yet. Name some: sslviz compare --dataset {dataset.name} --encoders NAME'
        )
    if settings.controls and dataset.root is not None:
        names += [name for name in controls(workspace, names[0]) if name not in names]
    for name in names:
        while result_state(workspace, dataset, name, "score")[0] != "fresh":
            try:
                analyze(AnalyzeSettings(dataset=dataset.name, encoder=name, project=settings.project), workspace, progress)
            except Busy:  # another run is at it
                progress.stage(f"waiting for another run on {name}")
                time.sleep(_PAUSE)
                progress.check()
    return {"dataset": dataset.name, "rows": [row(workspace, dataset, name) for name in names]}


def scored(workspace: Workspace, dataset: "Dataset") -> list[str]:
    """Encoders whose scores on this data set are there and fresh."""
    from sslviz.jobs.inputs import result_state

    return [name for name in workspace.encoders() if result_state(workspace, dataset, name, "score")[0] == "fresh"]


def row(workspace: Workspace, dataset: "Dataset", name: str) -> dict[str, Any]:
    """One encoder's line; figures of the probe are None without labels. Raises Stale where its scores are not fresh."""
    from sslviz.encoders.spec import load_spec
    from sslviz.errors import Stale
    from sslviz.jobs.inputs import result_state

    state, why, score = result_state(workspace, dataset, name, "score")
    if score is None or state != "fresh":
        raise Stale(f"the scores of {dataset.name} by {name} are {state}: {why}. Run sslviz compare --dataset {dataset.name}")
    summary, spec = score.content["summary"], load_spec(workspace, name)
    _, _, probe = result_state(workspace, dataset, name, "probe")
    reports = summary["reports"]
    return {
        "encoder": name,
        "method": spec.method,
        "features": summary["n_features"],
        "top1": None if probe is None else probe.content["summary"]["top1"],
        "judged_on": summary["judged_on"],
        "eps": summary["eps"],
        "mean_share": summary["mean_share"],
        "empty_share": summary["empty_share"].get(summary["judged_on"]),
        "rank_me": summary["rank_me"],
        "reports": reports,
        "verdict": reports["q"]["verdict"] if reports else None,
    }


def controls(workspace: Workspace, like: str) -> list[str]:
    """Names of the two controls of an encoder, stored where they are not yet: its network with random weights, raw pixels."""
    import torch

    from sslviz.encoders.backbones import BACKBONES
    from sslviz.encoders.spec import EncoderSpec, InputSpec, load_spec
    from sslviz.encoders.store import save_encoder
    from sslviz.store.fingerprints import fingerprint

    spec = load_spec(workspace, like)
    made: list[tuple[EncoderSpec, Any]] = []
    if spec.backbone not in ("arrays", "pixels"):
        torch.manual_seed(0)
        net = BACKBONES[spec.backbone].build(spec.architecture)
        kind = fingerprint(spec.model_dump(mode="json", include={"backbone", "architecture", "input"}))
        changes = {"name": f"random-weights-{kind[:6]}", "method": "random weights", "source": "never trained, seed 0"}
        made.append((spec.model_copy(update={**changes, "network": "", "licence": "", "notes": ()}), net.state_dict()))
    pixels = EncoderSpec(
        name="raw-pixels",
        backbone="pixels",
        architecture={"size": _PIXELS},
        feature_dim=3 * _PIXELS**2,
        input=InputSpec(size=_PIXELS, resize=_PIXELS, mean=(0, 0, 0), std=(1, 1, 1)),
        method="raw pixels",
        source="no network",
    )
    made.append((pixels, {}))
    for control, weights in made:
        if control.name not in workspace.encoders():
            save_encoder(workspace, control, weights)
    return [control.name for control, _ in made]
