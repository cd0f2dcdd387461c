"""Makes assets/demo/encoders out of workspaces: the trained encoders first, then their cards from what they score as shipped.

python -m benchmarks.ship weights --workspace training --encoders byol-demo vicreg-demo
sslviz demo --workspace fresh
python -m benchmarks.ship cards --workspace fresh

A training run that must go on on another machine is parked, half as precise, in checkpoints/ID, and goes on from there:

python -m benchmarks.ship park --workspace training --encoders byol-demo
cp -r checkpoints/ID training/runs/ && sslviz runs resume ID --workspace training

Weights and heads are shipped as float16. A card holds the command, the curve of the training run, and the report of the
encoder on the demo's test images.
"""

import argparse
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from sslviz.data import dataset as datasets
from sslviz.data.demo import files
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import load_weights, read_card, save_weights
from sslviz.jobs.compare import row
from sslviz.jobs.pretrain import PretrainSettings, made_with
from sslviz.jobs.runner import list_runs
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.files import read_json, write_json
from sslviz.store.fingerprints import file_digest
from sslviz.store.workspace import Workspace

SHIPPED = files.shipped() / "encoders"


def halved(state: Any, name: str = "") -> Any:
    """Tensors of floats as float16, in whatever dicts and lists they lie; all else as it is."""
    if isinstance(state, torch.Tensor) and state.is_floating_point():
        small = state.half()
        if not torch.isfinite(small).all():
            raise SystemExit(f"{name} does not fit into float16")
        return small
    if isinstance(state, dict):
        return {k: halved(v, str(k)) for k, v in state.items()}
    return [halved(v, name) for v in state] if isinstance(state, list) else state


def weights(workspace: Workspace, name: str) -> None:
    """Write weights.safetensors and head.safetensors, and the card of the training run."""
    spec = load_spec(workspace, name)
    folder = SHIPPED / name
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(
        folder / "weights.safetensors",
        halved(load_weights(workspace, spec)),
        {"sslviz": spec.model_dump_json(exclude={"digest"})},
    )
    head = load_file(workspace.encoder(name) / "head.safetensors")
    save_weights(folder / "head.safetensors", halved(head), {"sslviz": made_with(trained_by(workspace, name)).model_dump_json()})
    shutil.copy(workspace.encoder(name) / "card.json", folder)
    print(f"{name}: {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.2f} MB")


def trained_by(workspace: Workspace, name: str) -> PretrainSettings:
    """The settings of the command on an encoder's card."""
    card = read_card(workspace, name)
    assert card is not None
    words = shlex.split(card.command)[2:]
    given = {flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    return PretrainSettings.model_validate(given)


def park(workspace: Workspace, name: str) -> None:
    """Write checkpoints/ID: what the newest run that trains this encoder needs to go on elsewhere."""
    run = next(r for r in list_runs(workspace) if r["job"] == "pretrain" and r["settings"]["name"] == name)
    state = torch.load(workspace.run(run["id"]) / "checkpoint.pt", weights_only=True)
    folder = Path("checkpoints") / run["id"]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(halved(state), folder / "checkpoint.pt")
    for part in ("config.json", "precision.json", "input.json", "images.json"):
        if (workspace.run(run["id"]) / part).exists():
            shutil.copy(workspace.run(run["id"]) / part, folder)
    print(f"{folder}: {len(state['rows'])} epochs, {(folder / 'checkpoint.pt').stat().st_size / 1e6:.2f} MB")


def cards(workspace: Workspace, name: str) -> None:
    """Add what the shipped encoder does on the demo set."""
    folder = SHIPPED / name
    dataset = datasets.load(workspace, "demo")
    found = row(workspace, dataset, name)
    store = EmbeddingStore(workspace.embeddings("demo", name))
    train = dataset.samples.loc[dataset.samples["split"] == "train", "sample_id"]
    H = store.read(np.sort(store.rows().set_index("sample_id").loc[train, "row"].to_numpy()))
    report = {k: {m: r[m] for m in ("auroc", "auprc", "base_rate", "lift", "intervals")} for k, r in found["reports"].items()}
    old = read_json(folder / "card.json") if (folder / "card.json").exists() else {}
    facts = {
        "sha256": file_digest(folder / "weights.safetensors"),
        "top1": round(100 * found["top1"], 1),
        "judged_on": f"{found['reports']['q']['n']:,} test images of the demo set",
        "zeros": float((H == 0).mean()),
        **{k: found[k] for k in ("eps", "mean_share", "rank_me", "empty_share", "verdict")},
        "report": report,
    }
    write_json(folder / "card.json", {**old, **facts})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["weights", "cards", "park"])
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--encoders", nargs="*", default=[path.parent.name for path in files.encoder_files()])
    options = parser.parse_args()
    for name in options.encoders:
        {"weights": weights, "cards": cards, "park": park}[options.what](Workspace(options.workspace), name)


if __name__ == "__main__":
    main()
