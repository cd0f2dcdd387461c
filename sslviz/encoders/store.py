"""Encoders in a workspace: encoder.json beside weights.safetensors, with head.safetensors and card.json where they are known."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from sslviz.encoders.spec import EncoderSpec
from sslviz.errors import InputError
from sslviz.store.files import read_json, whole_file, write_json
from sslviz.store.fingerprints import file_digest, fingerprint
from sslviz.store.workspace import Workspace

MIN_FEATURES = 8


@dataclass(frozen=True)
class Head:
    """What training goes on from beside the backbone that is kept: projector, predictor, second network, queue.

    tensors: as their writer named them · facts: who wrote them, and for our own what they are made with.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]

    def digest(self) -> str:
        """Changes with any tensor or fact."""
        content = {n: t.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() for n, t in self.tensors.items()}
        parts = {name: hashlib.sha256(of_tensor).hexdigest() for name, of_tensor in content.items()}
        return fingerprint([parts, self.facts])


def save_encoder(
    workspace: Workspace,
    spec: EncoderSpec,
    weights: dict[str, torch.Tensor],
    head: Head | None = None,
    card: dict[str, Any] | None = None,
) -> EncoderSpec:
    """Store an encoder; returns its spec with the digest of the weights. The weights file alone also tells what it is.

    `card`: how it was trained (command, epochs, curve), for people to read.

    Raises InputError for an encoder narrower than 8 features.
    """
    check_width(spec)
    folder = workspace.create().encoder(spec.name)
    save_weights(folder / "weights.safetensors", weights, {"sslviz": spec.model_dump_json(exclude={"digest"})})
    if head:
        save_weights(folder / "head.safetensors", head.tensors, {"sslviz": json.dumps(head.facts)})
    if card:
        write_json(folder / "card.json", card)
    for part, made in (("head.safetensors", head), ("card.json", card)):  # not those of weights that were here before
        if not made:
            (folder / part).unlink(missing_ok=True)
    spec = spec.model_copy(update={"digest": file_digest(folder / "weights.safetensors")})
    write_json(folder / "encoder.json", spec.model_dump(mode="json"))
    return spec


def check_width(spec: EncoderSpec) -> None:
    """Raises InputError for an encoder narrower than 8 features."""
    if spec.feature_dim < MIN_FEATURES:
        raise InputError(f'encoder "{spec.name}" has {spec.feature_dim} features; expected at least {MIN_FEATURES}.')


def read_head(path: Path) -> Head | None:
    """The head in a head.safetensors; None where there is no such file. Raises InputError for a damaged one."""
    if not path.exists():
        return None
    remedy = "Add the encoder again, or remove that file to begin with a fresh head."
    try:
        with safe_open(path, "pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
            facts = json.loads((handle.metadata() or {}).get("sslviz", "{}"))
    except (OSError, SafetensorError, ValueError):
        raise InputError(f"{path} is damaged. {remedy}") from None
    if not isinstance(facts, dict):
        raise InputError(f"{path} does not say whose head it is. {remedy}")
    return Head(tensors, facts)


@dataclass(frozen=True)
class Card:
    """How an encoder was trained: the command, and the loss of each epoch."""

    command: str
    loss: list[float]


def card_of(workspace: Workspace, name: str) -> dict[str, Any]:
    """What is kept of an encoder's making; {} where nothing is. Raises InputError where it cannot be read."""
    path = workspace.encoder(name) / "card.json"
    content = read_json(path) if path.exists() else {}
    return content if isinstance(content, dict) else {}  # cards come along with files of others


def read_card(workspace: Workspace, name: str) -> Card | None:
    """The card of an encoder; None where it has none, or none that can be read."""
    try:
        content = card_of(workspace, name)
        return Card(str(content["command"]), [float(v) for v in content["curve"]["loss"]])
    except (InputError, KeyError, TypeError, ValueError):
        return None


def is_finetuned(workspace: Workspace, name: str) -> bool:
    """Whether a fine-tuning made this encoder, as one of its arms; False where its card cannot be read."""
    try:
        return "made_by" in card_of(workspace, name)
    except InputError:
        return False


def save_weights(path: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all (copies: tied or strided tensors are made plain)."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    with whole_file(path) as beside:
        beside.write_bytes(save(plain, metadata))  # save_file's files can be read by their owner alone


def load_weights(workspace: Workspace, spec: EncoderSpec) -> dict[str, torch.Tensor]:
    """The stored weights. Raises InputError when the file is not the one that was stored."""
    path = workspace.encoder(spec.name) / "weights.safetensors"
    if not path.exists() or file_digest(path) != spec.digest:
        raise InputError(
            f'the weights of encoder "{spec.name}" are not those that were stored ({path}: digest differs). '
            f"Add it again: sslviz encoders remove {spec.name}"
        )
    return load_file(path)
