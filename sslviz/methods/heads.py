"""A method's heads on disk: how a method is taken apart into an encoder and what goes on from it, and put together again.

Heads of our own say what they are made with; those of other people's files are translated (formats.py). Layers are built as
their tensors have them.
"""

import json
from collections.abc import Callable

import torch
from lightly.models.modules.heads import DINOProjectionHead, ProjectionHead
from pydantic import ValidationError
from torch import nn

from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.spec import EncoderSpec
from sslviz.encoders.store import Head
from sslviz.errors import InputError, in_one_line
from sslviz.methods import METHODS, SECOND, Made, Method, Tensors
from sslviz.methods.formats import translated


def take_apart(method: Method, made: Made) -> Head:
    """The head of a method in training: all but the kept backbone."""
    kept = f"{made.keeps or method.keeps}."
    return Head({k: v for k, v in method.state_dict().items() if not k.startswith(kept)}, made.model_dump(mode="json"))


def put_together(spec: EncoderSpec, weights: Tensors, head: Head, method_name: str = "") -> tuple[Method, Made, list[str]]:
    """(the method that an encoder's training goes on with, what it is made with, remarks).

    method_name: of a file that does not say it. Raises InputError where the head belongs to no known method, or does not fit.
    """
    try:
        if "options" in head.facts:
            made, tensors, notes = Made.model_validate_json(json.dumps(head.facts)), head.tensors, list[str]()
            if method_name not in ("", made.method):
                raise InputError(f'encoder "{spec.name}" has a head of {made.method}; leave --method {method_name} out.')
        else:
            made, tensors, notes = translated(spec, weights, head, method_name)
        _check(made, tensors)
        kind = METHODS[made.method]
        method = kind(BACKBONES[spec.backbone].build(spec.architecture), spec.feature_dim, made.options, made.views.n_views)
        _fit_layers(method, tensors)
        kept = made.keeps or kind.keeps
        method.load_state_dict({**{f"{kept}.{k}": v for k, v in weights.items()}, **tensors}, strict=True)
        _run(method, spec.feature_dim)
    except (ValidationError, RuntimeError, TypeError, KeyError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f'the head of encoder "{spec.name}" does not fit ({in_one_line(error)}). Add the encoder again.'
        ) from None
    return method, made, notes


def _check(made: Made, tensors: Tensors) -> None:
    """Raises ValueError where facts and tensors of a head, which may be anybody's, do not belong together."""
    sides = {side for tensor in tensors.values() for side in tensor.shape}
    own = made.options
    for name in ("hidden_dim", "output_dim", "prototypes", "queue_size"):
        if (size := getattr(own, name)) and size not in sides:
            raise ValueError(f"{name} {size} is the side of no tensor")
    if made.views.n_views != 2 or not 8 <= made.size <= 4096 or not 0 <= made.views.n_local <= 64:
        raise ValueError("its views cannot be")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds NaN or infinity")


def begin_anew(spec: EncoderSpec, weights: Tensors, made: Made) -> Method:
    """A method with fresh heads on an encoder that came without them."""
    backbone = BACKBONES[spec.backbone].build(spec.architecture)
    backbone.load_state_dict(weights, strict=True)
    return METHODS[made.method](backbone, spec.feature_dim, made.options, made.views.n_views)


def layers_of(tensors: Tensors, between: Callable[[], nn.Module]) -> nn.Sequential:
    """The layers of a head whose tensors are named POSITION.NAME: what is missing in between is an activation."""
    last = max(int(name.split(".")[0]) for name in tensors)
    if last > 2 * len(tensors):
        raise ValueError(f"a layer at position {last} of {len(tensors)} tensors")
    layers: list[nn.Module] = []
    for position in range(last + 1):
        own = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{position}.")}
        if not own:
            layers.append(between())
        elif "running_mean" in own:
            layers.append(nn.BatchNorm1d(len(own["running_mean"]), affine="weight" in own))
        else:
            out, into = own["weight"].shape
            layers.append(nn.Linear(into, out, bias="bias" in own))
    return nn.Sequential(*layers)


@torch.no_grad()
def _run(method: Method, width: int) -> None:
    """Raises RuntimeError where the heads do not follow on one another, or on features float[N, width]."""
    method.eval()
    z = torch.zeros(2, width)
    for name in ("projector", "predictor", "prototypes"):
        if hasattr(method, name):
            z = getattr(method, name)(z)
    method.train()


def _fit_layers(method: Method, tensors: Tensors) -> None:
    """Give each head the layers that its tensors have, where ours would be others."""
    for name, part in method.named_children():
        held = {n[len(name) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{name}.")}
        same = {n: t.shape for n, t in part.state_dict().items()} == {n: t.shape for n, t in held.items()}
        if same or name.endswith("backbone"):
            continue
        if name == "prototypes":
            method.prototypes = _linear(held["weight"], "bias" in held)
        elif isinstance(part, ProjectionHead):
            between = nn.GELU if any(isinstance(layer, nn.GELU) for layer in part.layers) else nn.ReLU
            part.layers = layers_of({n.removeprefix("layers."): t for n, t in held.items() if n.startswith("layers.")}, between)
            if isinstance(part, DINOProjectionHead):
                part.last_layer = _last_layer(held)
            if name.startswith(SECOND):
                part.requires_grad_(False)


def _last_layer(held: Tensors) -> nn.Module:
    """DINO's: weight-normalised with lengths that stay, or plain."""
    if "last_layer.weight" in held:
        return _linear(held["last_layer.weight"], bias=False)
    layer: nn.Module = nn.utils.weight_norm(_linear(held["last_layer.weight_v"], bias=False))
    layer.get_parameter("weight_g").requires_grad_(False)
    return layer


def _linear(weight: torch.Tensor, bias: bool) -> nn.Linear:
    out, into = weight.shape
    return nn.Linear(into, out, bias=bias)
