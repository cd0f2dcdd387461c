"""A method's heads on disk: how a method is taken apart into an encoder and what goes on from it, and put together again."""

import json

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from sslviz.encoders.backbones import BACKBONES
from sslviz.encoders.spec import EncoderSpec
from sslviz.encoders.store import Head
from sslviz.errors import InputError
from sslviz.methods import METHODS, Method, Options, Views


class Made(BaseModel):
    """What a method's heads are made with, and how it was trained: the views, at which size in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    options: Options
    views: Views
    size: int


def take_apart(method: Method, made: Made) -> Head:
    """The head of a method in training."""
    return Head(method.rest(), made.model_dump(mode="json"))


def put_together(spec: EncoderSpec, weights: dict[str, torch.Tensor], head: Head) -> tuple[Method, Made]:
    """The method that an encoder's training goes on with. Raises InputError where its head belongs to no known method."""
    try:
        made = Made.model_validate_json(json.dumps(head.facts))
        kind = METHODS[made.method]
        method = kind(BACKBONES[spec.backbone].build(spec.architecture), spec.feature_dim, made.options, made.views.n_views)
        method.load_state_dict({**{f"{kind.keeps}.{k}": v for k, v in weights.items()}, **head.tensors}, strict=True)
    except (ValidationError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f'the head of encoder "{spec.name}" does not fit ({reason}). Add the encoder again.') from None
    return method, made


def begin_anew(spec: EncoderSpec, weights: dict[str, torch.Tensor], made: Made) -> Method:
    """A method with fresh heads on an encoder that came without them."""
    backbone = BACKBONES[spec.backbone].build(spec.architecture)
    backbone.load_state_dict(weights, strict=True)
    return METHODS[made.method](backbone, spec.feature_dim, made.options, made.views.n_views)
