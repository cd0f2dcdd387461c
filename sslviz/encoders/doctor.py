"""The checkpoint doctor: which networks are in a file, which one is taken and why, and whether it is whole.

A backbone is taken only when every one of its tensors is there with its shape: a partly random network never gives a feature.
"""

import argparse
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sslviz.encoders.backbones import BACKBONES, Family
from sslviz.encoders.catalogue import SWAV_STD
from sslviz.encoders.files import FileContent, read_file
from sslviz.encoders.spec import EncoderSpec, InputSpec, input_of
from sslviz.encoders.store import Head
from sslviz.errors import InputError
from sslviz.store.fingerprints import file_digest

# (what the path of a network looks like, what it is, rank: the lower is taken). Later rules do not see what an earlier one took.
_ROLES: tuple[tuple[str, str, int], ...] = (
    (r"(^|\.)(momentum_|target_|ema_)(backbone|encoder|network)", "momentum network", 5),
    (r"(^|\.)encoder_k\.", "MoCo key encoder", 5),
    (r"(^|\.)momentum_encoder\.", "MoCo momentum encoder", 5),
    (r"(^|\.)(target|momentum|key)(\.|_)", "target network", 5),
    (r"(^|\.)teacher_", "teacher beside an encoder", 3),  # lightly's BYOL: its online network is the encoder
    (r"(^|\.)teacher\.", "teacher", 0),
    (r"(^|\.)student(\.|_)", "student", 4),
    (r"(^|\.)encoder_q\.", "MoCo query encoder", 1),
    (r"(^|\.)base_encoder\.", "MoCo v3 base encoder", 1),
    (r"(^|\.)online(\.|_)", "online network", 1),
    (r"(^|\.)(backbone|encoder|trunk|model)\.", "backbone", 2),
    (r"", "network", 3),
)
_OPTIONAL = "num_batches_tracked"
_WITH_HEADS = {"solo-learn", "lightly", "SimSiam", "MoCo", "MoCo v3", "SwAV", "DINO", "VICReg", "Barlow Twins"}
_CLASSIFIER = r"(^|\.)(momentum_|online_|knn_)?classifier\."
_TRAINED = r"(^|\.)(projector|projection_head|head|fc)\."


@dataclass(frozen=True)
class Network:
    """A backbone found in a file: path of its tensors, family, what it is, and how much of it is there."""

    prefix: str
    family: str
    role: str
    rank: int
    architecture: dict[str, Any]
    description: str
    matched: int
    expected: int
    missing: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    head: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.missing and not self.wrong_shape

    def state(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Its own of a file's tensors, by their names within it."""
        owns = BACKBONES[self.family].owns
        inside = {name[len(self.prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(self.prefix)}
        return {name: tensor for name, tensor in inside.items() if owns(name)}

    def others(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors that are not its own, by their names in the file."""
        own = {self.prefix + name for name in self.state(tensors)}
        return {name: tensor for name, tensor in tensors.items() if name not in own}


@dataclass(frozen=True)
class Inspection:
    """What is inside a checkpoint file; `taken` is the network an import would take, `refusal` why it would not."""

    path: Path
    container: str
    writer: str
    method: str
    epoch: int | None
    size_bytes: int
    sha256: str
    n_tensors: int
    networks: tuple[Network, ...]
    taken: Network | None
    why: str
    left_out: dict[str, int]
    heads: dict[str, str]
    input: InputSpec | None
    feature_dim: int | None
    refusal: str = ""
    notes: tuple[str, ...] = field(default=())
    head: Head | None = field(default=None, repr=False)
    """What training could go on from, as its writer named it; None where nothing of that kind is there."""


def inspect_file(path: Path, network: str | None = None) -> Inspection:
    """Look into a checkpoint. `network` asks for another one than the default by its role or path ("student").

    Raises NotFound, InputError or Untrusted when the file cannot be read at all; what can be read but not taken is told in
    `refusal`.
    """
    return _inspect(path, read_file(path), network)


def read_encoder(
    path: Path, name: str, network: str | None = None, input_spec: dict[str, Any] | None = None, stem_padding: int | None = None
) -> tuple[EncoderSpec, dict[str, torch.Tensor], Inspection]:
    """Take the encoder out of a checkpoint: its spec, its weights, and the inspection that says what was left out.

    Raises InputError when no whole backbone is in the file, or a weight is not finite (named).
    """
    content = read_file(path)
    found = _inspect(path, content, network)
    if found.taken is None or found.input is None or found.feature_dim is None:
        raise InputError(found.refusal)
    taken = found.taken
    family = BACKBONES[taken.family]
    state = family.rename(taken.state(content.tensors))
    architecture = dict(taken.architecture)
    if stem_padding is not None and "stem_padding" in architecture:
        architecture["stem_padding"] = stem_padding
    backbone = family.build(architecture)
    counters = {k: v for k, v in backbone.state_dict().items() if k.endswith(_OPTIONAL)}
    backbone.load_state_dict({**counters, **state}, strict=True)
    changes = {k: v for k, v in (input_spec or {}).items() if v is not None}
    if "size" in changes and "resize" not in changes:
        changes["resize"] = round(changes["size"] * found.input.resize / found.input.size)
    new_input = input_of({**found.input.model_dump(), **changes})
    own = _own_spec(content)
    spec = EncoderSpec(
        name=name,
        backbone=taken.family,
        architecture=architecture,
        feature_dim=found.feature_dim,
        outputs=() if own is None else own.outputs,
        input=new_input,
        method=found.method,
        network=f"{taken.role} ({taken.prefix.rstrip('.') or 'top level'})",
        source=f"{own.source if own else path.name}, sha256 {found.sha256}",
        notes=found.notes,
    )
    return spec, dict(backbone.state_dict()), found


def report(found: Inspection) -> dict[str, Any]:
    """An inspection in plain values: what the command line prints and the data page shows."""
    return {
        "file": str(found.path),
        "size_mb": round(found.size_bytes / 1e6, 1),
        "sha256": found.sha256,
        "container": found.container,
        "writer": found.writer,
        "method": found.method,
        "epoch": found.epoch,
        "tensors": found.n_tensors,
        "networks": [
            {
                "path": n.prefix.rstrip(".") or "(top level)",
                "role": n.role,
                "architecture": n.description,
                "matched": n.matched,
                "missing": len(n.missing),
                "wrong_shape": len(n.wrong_shape),
                "head": list(n.head),
            }
            for n in found.networks
        ],
        "taken": found.taken.prefix.rstrip(".") or "(top level)" if found.taken else None,
        "why": found.why,
        "features": found.feature_dim,
        "left_out": found.left_out,
        "heads": found.heads,
        "input": found.input.model_dump(mode="json") if found.input else None,
        "notes": list(found.notes),
        "refusal": found.refusal,
    }


def _inspect(path: Path, content: FileContent, wanted: str | None) -> Inspection:
    tensors = content.tensors
    own = _own_spec(content)
    writer = "sslviz" if own else _writer(content)
    networks = _networks(content, writer, own)
    taken, why = _choose(networks, wanted)
    method = own.method if own else _method(content, taken)
    refusal = "" if taken is not None and taken.whole else _refusal(path, content, taken, networks, wanted, why)
    if taken is not None and not refusal:
        refusal = _unusable(path, taken.state(tensors))
    if refusal:
        taken = None
    left_out: dict[str, int] = {}
    heads: dict[str, str] = {}
    notes: list[str] = []
    input_spec, feature_dim = None, None
    if taken is not None:
        family = BACKBONES[taken.family]
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for n, t in taken.others(tensors).items():
            parts.setdefault(_part(n, taken.prefix), {})[n] = t
        left_out = {part: len(held) for part, held in parts.items()}
        heads = {part: words for part, held in parts.items() if (words := _layout(held))}
        size, resize = family.input_size(taken.architecture)
        std = SWAV_STD if writer in {"solo-learn", "SwAV"} else InputSpec().std
        input_spec = own.input if own else InputSpec(size=size, resize=resize, std=std)
        width = _feature_dim(family, taken.architecture, input_spec.size)
        feature_dim = own.feature_dim if own and own.outputs else width
        notes.append(
            f"{taken.description}, {feature_dim} features; took the {taken.role} at {taken.prefix.rstrip('.') or 'the top level'}"
            + (f": {why}" if why else "")
        )
        if taken.family == "vit":
            notes.append("attention heads are taken to be 64 wide; the number is not in the file")
        if taken.architecture.get("stem") == "3x3":
            notes.append(
                f"stem padding {taken.architecture['stem_padding']} because "
                + ("solo-learn wrote the file" if writer == "solo-learn" else "most libraries use 1 (shapes cannot tell)")
                + "; --stem-padding changes it"
            )
        if not own:
            usual = "ImageNet's" if writer == "unknown" else "usual for its writer"
            notes.append(f"input normalisation is not in the file; taken to be {usual}, --mean and --std change it")
        if taken.prefix == "state_dict." and "fc" in taken.head and not content.other.keys() - {"state_dict"}:
            notes.append(
                'SimCLR converted from TensorFlow looks like this and wants inputs in 0..1: --mean "0 0 0" --std "1 1 1"'
            )
    return Inspection(
        path=path,
        container=content.container,
        writer=writer,
        method=method,
        epoch=_whole_number(content.other.get("epoch")),
        size_bytes=path.stat().st_size,
        sha256=file_digest(path),
        n_tensors=len(tensors),
        networks=tuple(networks),
        taken=taken,
        why=why,
        left_out=left_out,
        heads=heads,
        input=input_spec,
        feature_dim=feature_dim,
        refusal=refusal,
        notes=tuple(notes),
        head=_head(content, taken, writer, method),
    )


def _head(content: FileContent, taken: Network | None, writer: str, method: str) -> Head | None:
    if taken is None or writer not in _WITH_HEADS:
        return None
    tensors = {name: t for name, t in taken.others(content.tensors).items() if not re.search(_CLASSIFIER, name)}
    facts = {"writer": writer, "method": method, "settings": _settings(content)}
    return Head(tensors, facts) if any(re.search(_TRAINED, name) for name in tensors) else None


def _settings(content: FileContent) -> dict[str, float]:
    """The numbers that a training was started with, where its file says them: by dotted name."""
    given = content.other.get("args", content.other.get("hyper_parameters"))
    told = vars(given) if isinstance(given, argparse.Namespace) else given
    found: dict[str, float] = {}
    for name, value in told.items() if isinstance(told, dict) else ():
        inside = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {str(name): value}
        found |= {k: v for k, v in inside.items() if type(v) in (int, float) and math.isfinite(v)}
    return found


def _whole_number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def _own_spec(content: FileContent) -> EncoderSpec | None:
    if content.container != "safetensors" or "sslviz" not in content.other:
        return None
    try:
        spec = EncoderSpec.model_validate(json.loads(content.other["sslviz"]))
        if not BACKBONES[spec.backbone].anchors:  # a file does not make us ask a model hub
            return None
        repeated = [spec.architecture[k] for k in ("blocks", "depth") if k in spec.architecture]
        if sum([*repeated, *spec.architecture.get("layers", [])]) > len(content.tensors):  # nor build what it does not hold
            return None
        with torch.device("meta"):
            BACKBONES[spec.backbone].build(spec.architecture)
        if spec.outputs and not _fits(spec):
            return None
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError):
        return None
    return spec


def _fits(spec: EncoderSpec) -> bool:
    """Whether the outputs that a file wants are there, ascending, and as many as it says."""
    width = _feature_dim(BACKBONES[spec.backbone], spec.architecture, spec.input.size)
    ascending = all(a < b for a, b in itertools.pairwise((-1, *spec.outputs, width)))
    return ascending and len(spec.outputs) == spec.feature_dim


def _networks(content: FileContent, writer: str, own: EncoderSpec | None) -> list[Network]:
    found = []
    for family_name in BACKBONES:
        family = BACKBONES[family_name]
        if own is not None:
            if family_name == own.backbone:
                found.append(_network(content, "", family_name, family, writer, own.architecture))
            continue
        if not family.anchors:
            continue
        first = family.anchors[0]
        prefixes = {n[: -len(first)] for n in content.tensors if n.endswith(first) and n[: -len(first)][-1:] in ("", ".", "_")}
        for prefix in sorted(prefixes):
            if all(prefix + anchor in content.tensors for anchor in family.anchors):
                try:
                    found.append(_network(content, prefix, family_name, family, writer, None))
                except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, RuntimeError, AssertionError):
                    continue  # names of this family, shapes of no network
    small = {n.prefix for n in found if n.family == "small_resnet"}
    return [n for n in found if n.family != "resnet" or n.prefix not in small]


def _network(
    content: FileContent, prefix: str, family_name: str, family: Family, writer: str, architecture: dict[str, Any] | None
) -> Network:
    shapes = {n[len(prefix) :]: tuple(t.shape) for n, t in content.tensors.items() if n.startswith(prefix)}
    if architecture is None:
        architecture = family.architecture(shapes, writer)
    with torch.device("meta"):
        wanted = {n: tuple(t.shape) for n, t in family.build(architecture).state_dict().items()}
    owned = {n: content.tensors[prefix + n] for n in shapes if family.owns(n)}
    have = {n: tuple(t.shape) for n, t in family.rename(owned).items()}
    missing = tuple(n for n in wanted if n not in have and n.replace(_OPTIONAL, "running_mean") not in have)
    wrong = tuple(f"{n} is {_times(have[n])}, expected {_times(wanted[n])}" for n in wanted if n in have and have[n] != wanted[n])
    strange = [n for n in have if n not in wanted and not n.endswith(_OPTIONAL)]
    if strange:
        wrong += (f"{len(strange)} tensors of its layers are unknown (first: {strange[0]}): another architecture",)
    role, rank = next((role, rank) for pattern, role, rank in _ROLES if re.search(pattern, prefix))
    heads = {n.split(".")[0] for n in shapes if not family.owns(n)}
    matched = sum(have.get(n) == shape for n, shape in wanted.items())
    return Network(
        prefix=prefix,
        family=family_name,
        role=role,
        rank=rank,
        architecture=architecture,
        description=family.describe(architecture),
        matched=matched,
        expected=len(wanted),
        missing=missing,
        wrong_shape=wrong,
        head=tuple(sorted(heads)),
    )


def _choose(networks: list[Network], wanted: str | None) -> tuple[Network | None, str]:
    if wanted is not None:
        hits = [n for n in networks if wanted in (n.prefix.rstrip("."), n.role)] or [
            n for n in networks if wanted in re.split(r"[._]", n.prefix) or wanted in n.prefix.split(".")
        ]
        return (hits[0], "asked for") if len(hits) == 1 else (None, "ambiguous" if hits else "")
    if not networks:
        return None, ""
    ranked = sorted(networks, key=lambda n: n.rank)
    if len(ranked) == 1:
        return ranked[0], ""
    if ranked[0].rank == ranked[1].rank:
        return None, "ambiguous"
    others = ", ".join(f"{n.role} ({n.prefix.rstrip('.')})" for n in ranked[1:])
    return ranked[0], f"the branch that is evaluated; the file also holds {others}"


def _refusal(
    path: Path, content: FileContent, taken: Network | None, networks: list[Network], wanted: str | None, why: str
) -> str:
    tensors = content.tensors
    names = ", ".join(n.prefix.rstrip(".") or "(top level)" for n in networks)
    if taken is not None:
        lead = f"{path}: {taken.matched} of {taken.expected} backbone tensors match ({taken.description}); "
        if taken.missing:
            parts = Counter(n.split(".")[0] for n in taken.missing)
            return lead + ", ".join(f"{p}.* missing ({c})" for p, c in parts.items()) + ". A partly random network is not used."
        return lead + taken.wrong_shape[0] + ". A partly random network is not used."
    if why == "ambiguous":
        return f"{path} holds several networks: {names}. Say which: --network NAME"
    if networks and wanted is not None:
        return f'{path} holds no network "{wanted}"; there is: {names}.'
    if not tensors:
        keys = ", ".join(list(content.other)[:6]) or "nothing"
        return f"{path} holds no weights (only: {keys})."
    matrices = [t for n, t in tensors.items() if n.endswith("weight") and t.ndim == 2]
    if len(tensors) <= 4 and len(matrices) == 1:
        return f"{path}: this file holds a classifier for {matrices[0].shape[1]} features and no backbone."
    return (
        f"{path}: 0 of {len(tensors)} tensors have a name of a known backbone; first unknown: {next(iter(tensors))}. "
        f"Known are torchvision ResNets, ViTs and this project's own."
    )


def _unusable(path: Path, state: Mapping[str, torch.Tensor]) -> str:
    """Why a network with these tensors gives no features; "" where nothing is known against it."""
    for name, tensor in state.items():
        if name.endswith(_OPTIONAL):
            continue
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"{path}: {name} holds {kind}, expected floating-point weights; save the network in float32."
        values = tensor.float()
        if not torch.isfinite(values).all():
            return f"{path}: {name} holds NaN or infinity (a training run that went bad); take an earlier checkpoint."
        if name.endswith("running_var") and (values < 0).any():
            return f"{path}: {name} holds variances below zero: the file is damaged; take another."
    return ""


def _writer(content: FileContent) -> str:
    names, other = content.tensors, content.other
    parameters = other.get("hyper_parameters")
    if content.container == "PyTorch Lightning":
        lightly = any("projection_head." in n or "online_classifier." in n for n in names)
        if lightly:
            return "lightly"
        solo = isinstance(parameters, dict) and "method" in parameters
        if solo or any(re.match(r"state_dict\.(projector|momentum_backbone|predictor)\.", n) for n in names):
            return "solo-learn"
        return "PyTorch Lightning"
    if any(re.search(r"(^|\.)encoder_q\.", n) for n in names):
        return "MoCo"
    if any(re.search(r"(^|\.)base_encoder\.", n) for n in names):
        return "MoCo v3"
    if any(re.search(r"(^|\.)prototypes\.", n) for n in names):
        return "SwAV"
    if "teacher" in other and "student" in other:
        return "DINO"
    if any(n.startswith("state_dict.module.encoder.") for n in names) and any(".predictor." in n for n in names):
        return "SimSiam"
    if any(n.startswith("model.module.projector.") for n in names):
        return "Barlow Twins" if any(n.startswith("model.module.bn.") for n in names) else "VICReg"
    return "unknown"


def _method(content: FileContent, taken: Network | None) -> str:
    parameters = content.other.get("hyper_parameters")
    if isinstance(parameters, dict) and isinstance(parameters.get("method"), str):
        return str(parameters["method"])[:40]
    writer = _writer(content)
    by_writer = {"MoCo": "moco", "MoCo v3": "moco", "SwAV": "swav", "DINO": "dino", "SimSiam": "simsiam"}
    by_writer |= {"VICReg": "vicreg", "Barlow Twins": "barlow_twins"}
    if writer in by_writer:
        return by_writer[writer]
    return "byol" if taken is not None and taken.role == "online network" else "unknown"


def _feature_dim(family: Family, architecture: dict[str, Any], size: int) -> int:
    with torch.device("meta"):
        net = family.build(architecture).eval()
        return int(net(torch.empty(1, 3, size, size)).shape[1])


def _part(name: str, prefix: str) -> str:
    """The part of a file a left-out tensor belongs to: its path down to the first name that tells."""
    if name.startswith(prefix) and prefix:
        return prefix + name[len(prefix) :].split(".")[0]
    pieces = name.split(".")
    keep = 1
    while keep < len(pieces) and pieces[keep - 1] in {"state_dict", "module", "model", "teacher", "student"}:
        keep += 1
    return ".".join(pieces[:keep])


def _layout(held: dict[str, torch.Tensor]) -> str:
    """Widths of a head's layers in their order, or the shape of a queue; "" for what is another network, or no layer."""
    if any(t.ndim > 2 for t in held.values()):
        return ""
    for order in (list(held), sorted(held, key=_natural)):  # as written; safetensors sorts by letters
        matrices = [held[n] for n in order if held[n].ndim == 2 and min(held[n].shape) > 1]
        if all(a.shape[0] == b.shape[1] for a, b in itertools.pairwise(matrices)):
            break
    else:
        return ", ".join(_times(tuple(m.shape)) for m in matrices)
    if not matrices:
        return ""
    if not any(n.endswith(("weight", "weight_v")) for n in held):
        return _times(tuple(matrices[0].shape))
    return " → ".join(str(width) for width in (matrices[0].shape[1], *(m.shape[0] for m in matrices)))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 after layer 9."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in name.split(".")]


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
