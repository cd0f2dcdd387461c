"""Encoders in a workspace: encoder.json beside weights.safetensors (and head.safetensors where a head is known)."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sslviz.encoders.spec import EncoderSpec
from sslviz.errors import InputError
from sslviz.store.files import whole_file, write_json
from sslviz.store.fingerprints import file_digest
from sslviz.store.workspace import Workspace

MIN_FEATURES = 8


def save_encoder(
    workspace: Workspace,
    spec: EncoderSpec,
    weights: dict[str, torch.Tensor],
    head: dict[str, torch.Tensor] | None = None,
) -> EncoderSpec:
    """Store an encoder; returns its spec with the digest of the weights. The weights file alone also tells what it is.

    Raises InputError for an encoder narrower than 8 features.
    """
    if spec.feature_dim < MIN_FEATURES:
        raise InputError(f'encoder "{spec.name}" has {spec.feature_dim} features; expected at least {MIN_FEATURES}.')
    folder = workspace.create().encoder(spec.name)
    save_weights(folder / "weights.safetensors", weights, {"sslviz": spec.model_dump_json(exclude={"digest"})})
    if head:
        save_weights(folder / "head.safetensors", head, {})
    spec = spec.model_copy(update={"digest": file_digest(folder / "weights.safetensors")})
    write_json(folder / "encoder.json", spec.model_dump(mode="json"))
    return spec


def save_weights(path: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all (copies: tied or strided tensors are made plain)."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
    with whole_file(path) as beside:
        save_file(plain, beside, metadata)


def load_weights(workspace: Workspace, spec: EncoderSpec) -> dict[str, torch.Tensor]:
    """The stored weights. Raises InputError when the file is not the one that was stored."""
    path = workspace.encoder(spec.name) / "weights.safetensors"
    if not path.exists() or file_digest(path) != spec.digest:
        raise InputError(
            f'the weights of encoder "{spec.name}" are not those that were stored ({path}: digest differs). '
            f"Add it again: sslviz encoders remove {spec.name}"
        )
    return load_file(path)
