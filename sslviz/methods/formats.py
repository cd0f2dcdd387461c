"""Heads that other people's training code wrote: which of its tensors are what of ours, and how its method differs.

A file's writer and method name a format (docs/formats.md); what a file does not name is told by its parts.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.spec import EncoderSpec
from sslviz.encoders.store import Head
from sslviz.errors import InputError
from sslviz.methods import METHODS, SECOND, Made, Tensors


@dataclass(frozen=True)
class Format:
    """How a writer's file of a method becomes ours. parts: our name -> theirs; those with a dot at the end are how
    names begin, after `root`. told: our option -> the setting in the file that says another value than `options`."""

    parts: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    views: dict[str, Any] = field(default_factory=dict)
    keeps: str = ""
    root: str = "state_dict."
    told: dict[str, str] = field(default_factory=dict)


_SOLO = {"temperature": "method_kwargs.temperature", "momentum": "momentum.base_tau"}
_SYMMETRIC = {"scale": (0.08, 1.0), "jitter": (0.8, 0.8, 0.8, 0.2), "blur": (0.5, 0.5), "solarise": (0.0, 0.0), "n_local": 0}
_WEAK = {**_SYMMETRIC, "jitter": (0.4, 0.4, 0.4, 0.1)}
_ASYMMETRIC = {**_SYMMETRIC, "jitter": (0.4, 0.4, 0.2, 0.1), "blur": (1.0, 0.1), "solarise": (0.0, 0.2)}
_SOLARISED = {**_SYMMETRIC, "scale": (0.2, 1.0), "jitter": (0.4, 0.4, 0.2, 0.1), "solarise": (0.1, 0.1)}

FORMATS: dict[tuple[str, str], Format] = {
    ("solo-learn", "simclr"): Format(
        {"projector.layers.": "projector."}, {"temperature": 0.2, "grouping": "view"}, _SYMMETRIC, told=_SOLO
    ),
    ("solo-learn", "moco"): Format(
        {
            "projector.layers.": "projector.",
            "key_projector.layers.": "momentum_projector.",
            "key_backbone.": "momentum_backbone.",
            "queues": "queue",
            "queue_ptr": "queue_ptr",
        },
        {"temperature": 0.2, "momentum": 0.99, "queues": 2},
        _WEAK,
        told=_SOLO,
    ),
    ("solo-learn", "moco v3"): Format(
        {
            "projector.layers.": "projector.",
            "predictor.layers.": "predictor.",
            "key_projector.layers.": "momentum_projector.",
            "key_backbone.": "momentum_backbone.",
        },
        {"temperature": 0.2, "momentum": 0.99, "version": 3, "queue_size": 0},
        _ASYMMETRIC,
        told=_SOLO,
    ),
    ("solo-learn", "byol"): Format(
        {
            "projector.layers.": "projector.",
            "predictor.layers.": "predictor.",
            "target_projector.layers.": "momentum_projector.",
            "target_backbone.": "momentum_backbone.",
        },
        {"momentum": 0.99},
        _ASYMMETRIC,
        told=_SOLO,
    ),
    ("solo-learn", "simsiam"): Format({"projector.layers.": "projector.", "predictor.layers.": "predictor."}, {}, _WEAK),
    ("solo-learn", "swav"): Format(
        {"projector.layers.": "projector.", "prototypes.": "prototypes."},
        {"temperature": 0.1, "epsilon": 0.05, "grouping": "view"},
        _SYMMETRIC,
        told=_SOLO | {"epsilon": "method_kwargs.sk_epsilon"},
    ),
    ("solo-learn", "dino"): Format(
        {
            "projector.layers.": "head.mlp.",
            "projector.last_layer.": "head.last_layer.",
            "teacher_projector.layers.": "momentum_head.mlp.",
            "teacher_projector.last_layer.": "momentum_head.last_layer.",
            "teacher_backbone.": "momentum_backbone.",
            "criterion.center": "dino_loss_func.center",
        },
        {"temperature": 0.07, "momentum": 0.9995, "grouping": "view"},
        _ASYMMETRIC,
        keeps="backbone",
        told=_SOLO | {"temperature": "method_kwargs.teacher_temperature"},
    ),
    ("solo-learn", "vicreg"): Format({"projector.layers.": "projector."}, {"terms": (25.0, 50.0, 1.0)}, _SOLARISED),
    ("solo-learn", "barlow_twins"): Format({"projector.layers.": "projector."}, {"terms": (0.1, 0.0051)}, _ASYMMETRIC),
    ("lightly", "simclr"): Format({"projector.": "projection_head."}, {"temperature": 0.1}, {"jitter": _SYMMETRIC["jitter"]}),
    ("lightly", "moco"): Format(
        {"projector.": "projection_head.", "key_projector.": "key_projection_head.", "key_backbone.": "key_backbone."},
        {"temperature": 0.2, "momentum": 0.999, "one_way": True, "queue_size": 65_536},
    ),
    ("lightly", "byol"): Format(
        {
            "projector.": "projection_head.",
            "predictor.": "prediction_head.",
            "target_projector.": "teacher_projection_head.",
            "target_backbone.": "teacher_backbone.",
        },
        {"momentum": 0.99},
    ),
    ("lightly", "swav"): Format(
        {"projector.": "projection_head.", "prototypes.": "prototypes.heads.0."},
        {"temperature": 0.1, "epsilon": 0.05, "grouping": "view"},
        {"n_local": 6},
    ),
    ("lightly", "dino"): Format(
        {
            "projector.": "student_projection_head.",
            "backbone.": "student_backbone.",
            "teacher_projector.": "projection_head.",
            "criterion.center": "criterion.center",
        },
        {"temperature": 0.04, "momentum": 0.996},
        {"n_local": 6},
    ),
    ("lightly", "vicreg"): Format(
        {"projector.": "projection_head."}, {"grouping": "together"}, {**_SOLARISED, "scale": (0.08, 1.0)}
    ),
    ("lightly", "barlow_twins"): Format({"projector.": "projection_head."}, {"grouping": "together"}),
    ("SimSiam", "simsiam"): Format({"projector.layers.": "module.encoder.fc.", "predictor.layers.": "module.predictor."}),
    ("MoCo", "moco"): Format(
        {
            "projector.layers.": "module.encoder_q.fc.",
            "key_projector.layers.": "module.encoder_k.fc.",
            "key_backbone.": "module.encoder_k.",
            "queues": "module.queue",
            "queue_ptr": "module.queue_ptr",
        },
        {"temperature": 0.2, "momentum": 0.999, "one_way": True, "queue_size": 65_536},
    ),
    ("MoCo v3", "moco"): Format(
        {
            "projector.layers.": "module.base_encoder.fc.",
            "predictor.layers.": "module.predictor.",
            "key_projector.layers.": "module.momentum_encoder.fc.",
            "key_backbone.": "module.momentum_encoder.",
        },
        {"temperature": 1.0, "momentum": 0.99, "version": 3, "queue_size": 0},
        {**_ASYMMETRIC, "scale": (0.2, 1.0)},
    ),
    ("SwAV", "swav"): Format(
        {"projector.layers.": "module.projection_head.", "prototypes.": "module.prototypes."},
        {"temperature": 0.1, "epsilon": 0.05},
        {"n_local": 6},
    ),
    ("DINO", "dino"): Format(
        {
            "projector.layers.": "student.module.head.mlp.",
            "projector.last_layer.": "student.module.head.last_layer.",
            "backbone.": "student.module.backbone.",
            "teacher_projector.layers.": "teacher.module.head.mlp.",
            "teacher_projector.last_layer.": "teacher.module.head.last_layer.",
            "criterion.center": "dino_loss.center",
        },
        {"temperature": 0.04, "momentum": 0.996},
        {"n_local": 8},
        root="",
        told={"temperature": "teacher_temp", "momentum": "momentum_teacher"},
    ),
    ("VICReg", "vicreg"): Format({"projector.layers.": "module.projector."}, {}, _ASYMMETRIC, root="model."),
    ("Barlow Twins", "barlow_twins"): Format(
        {"projector.layers.": "module.projector."}, {"terms": (1.0, 0.0051)}, _ASYMMETRIC, root="model."
    ),
}
_CALLED = {"mocov2plus": "moco", "mocov2": "moco", "mocov3": "moco v3", "barlowtwins": "barlow_twins"}


class UnknownHead(InputError):
    """A head whose writer and method are no known pair."""


def translated(spec: EncoderSpec, weights: Tensors, head: Head, method_name: str) -> tuple[Made, Tensors, list[str]]:
    """(what it is made with, its tensors by our names, notes on what the file lacks).

    Raises UnknownHead, and InputError where the file names another method.
    """
    writer = str(head.facts.get("writer", ""))
    asked, said = (_CALLED.get(name, name) for name in (method_name, str(head.facts.get("method", ""))))
    if said == "unknown":
        said = ""
    known = (writer, said) in FORMATS
    if asked and known and asked not in (said, said.removesuffix(" v3")):
        raise InputError(f'encoder "{spec.name}" has a head of {said}; leave --method {method_name} out.')
    called = said if known else asked or said or _told_by_its_parts(head.tensors, writer)
    if (writer, called) not in FORMATS:
        raise UnknownHead(
            f'encoder "{spec.name}" came with a head of {writer or "an unknown writer"}, method {called}, that is not known. '
            f"Say which loss to go on with: --method {'|'.join(METHODS.names())}"
        )
    form = FORMATS[writer, called]
    if called == "moco v3":
        called = "moco"
    kind = METHODS[called]
    tensors = {name.removeprefix(form.root): tensor for name, tensor in head.tensors.items()}
    found = _renamed(tensors, form, BACKBONES[spec.backbone].owns)
    notes: list[str] = []
    queues, pointer = found.pop("queues", None), found.pop("queue_ptr", torch.zeros(1))
    if "prototypes.weight_v" in found:
        v, g = found.pop("prototypes.weight_v"), found.pop("prototypes.weight_g")
        found["prototypes.weight"] = g * v / v.norm(dim=1, keepdim=True)
    out, hidden = _widths(found)
    told = _told(form, head)
    notes += [f"{option} is {value:g}, as the file says" for option, value in told.items() if value != form.options.get(option)]
    given = {"hidden_dim": hidden, "output_dim": out, **form.options, **told}
    if queues is not None:
        given["queue_size"] = queues.shape[-1]
    if "prototypes.weight" in found:
        given["prototypes"] = len(found["prototypes.weight"])
    if "criterion.center" in found:
        found["criterion.center"] = found["criterion.center"].reshape(1, 1, -1)
    options = replace(kind.options, **given)
    views = replace(kind.views, **form.views)
    made = Made(method=called, options=options, views=views, size=spec.input.size, keeps=form.keeps)
    complete = _completed(found, form, made, weights, queues, pointer, notes)
    return made, complete, [f"goes on with the {called} head of the file, written by {writer}", *notes]


def _renamed(tensors: Tensors, form: Format, owns: Callable[[str], bool]) -> Tensors:
    found: Tensors = {}
    for ours, theirs in form.parts.items():
        for name, tensor in tensors.items():
            rest = name[len(theirs) :]
            if ours.endswith(".") and name.startswith(theirs) and (not ours.endswith("backbone.") or owns(rest)):
                found[ours + rest] = tensor
            elif name == theirs:
                found[ours] = tensor
    return found


def _widths(found: Tensors) -> tuple[int, int]:
    """(output, hidden) widths of the projector; DINO's ends after its bottleneck."""
    matrices = [t for n, t in found.items() if n.startswith("projector.layers.") and t.ndim == 2]
    last = next((t for n, t in found.items() if re.match(r"projector\.last_layer\.weight(_v)?$", n)), matrices[-1])
    return int(last.shape[0]), int(matrices[0].shape[0])


def _told(form: Format, head: Head) -> dict[str, float]:
    """Options by the settings in the file; one that cannot be is not taken."""
    settings = head.facts.get("settings", {})
    told = {option: settings[theirs] for option, theirs in form.told.items() if theirs in settings}
    return {option: value for option, value in told.items() if 0 < value <= 1}


def _completed(
    found: Tensors,
    form: Format,
    made: Made,
    weights: Tensors,
    queues: torch.Tensor | None,
    pointer: torch.Tensor,
    notes: list[str],
) -> Tensors:
    """The tensors with what the file lacks: second networks begin as copies, queues as random directions."""
    complete = dict(found)
    for network in dict.fromkeys(part.split(".")[0] for part in form.parts):
        if not network.startswith(SECOND) or any(n.startswith(f"{network}.") for n in found):
            continue
        own = {n.removeprefix("projector."): t for n, t in found.items() if n.startswith("projector.")}
        complete |= {f"{network}.{n}": t for n, t in (weights if network.endswith("backbone") else own).items()}
        notes.append(f"the file has no {network}: it begins as a copy")
    if made.method == "moco" and made.options.version == 2:
        size = (made.options.queue_size, made.options.output_dim)
        banks = [
            torch.nn.functional.normalize(torch.randn(size, generator=torch.Generator().manual_seed(k)), dim=1) for k in (0, 1)
        ]
        place = pointer.long().reshape(-1)[:1] % made.options.queue_size
        if queues is None:
            notes.append("the file has no queue: it begins with random directions and fills up")
        else:
            banks = [bank.T.contiguous() for bank in (queues if queues.ndim == 3 else queues[None])]
        if made.options.queues == 2:  # the first query meets the keys of the second view
            complete |= {"criterion.memory_bank.bank": banks[1], "second_criterion.memory_bank.bank": banks[0]}
            complete["second_criterion.memory_bank.bank_ptr"] = place.clone()
        else:
            complete["criterion.memory_bank.bank"] = banks[0]
        complete["criterion.memory_bank.bank_ptr"] = place
    if made.method == "dino" and "criterion.center" not in complete:
        complete["criterion.center"] = torch.zeros(1, 1, made.options.output_dim)
        notes.append("the file has no centre: it begins at zero")
    return complete


def _told_by_its_parts(tensors: Tensors, writer: str) -> str:
    """The method of a file that does not name it, by what only this method has; "unknown" where two look alike."""

    def has(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in tensors)

    second = has(r"(momentum|key|teacher|target)_")
    rules = {
        "dino": has(r"last_layer"),
        "swav": has(r"prototypes"),
        "moco v3": second and has(r"predictor\.") and has(r"projector\.4\.running_mean") and not has(r"projector\.4\.weight"),
        "byol": second and has(r"predict(or|ion_head)\."),
        "moco": second,
        "simsiam": has(r"predictor\."),
        "simclr": not has(r"(projector|projection_head\.layers)\.6\.")
        and (not has(r"running_mean") or has(r"projection_head\.layers\.4\.running_mean")),
    }
    if found := next((name for name, holds in rules.items() if holds), None):
        return found
    if writer == "lightly":  # VICReg's head has two layers there, Barlow Twins' three
        return "barlow_twins" if has(r"projection_head\.layers\.6\.") else "vicreg"
    return "unknown"
