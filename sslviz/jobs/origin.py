"""What a fine-tuning goes on from: an encoder, its weights, and the head it was trained with."""

from dataclasses import dataclass
from typing import Self

import torch

from sslviz.encoders.spec import EncoderSpec, load_spec
from sslviz.encoders.store import Head, load_weights, read_head
from sslviz.errors import InputError, unknown_name
from sslviz.jobs.finetune import FinetuneSettings, check_trainable
from sslviz.methods import METHODS, Made, Method
from sslviz.methods.formats import UnknownHead
from sslviz.methods.heads import begin_anew, put_together
from sslviz.store.workspace import Workspace


@dataclass(frozen=True)
class Origin:
    """The encoder that training goes on from, with its head (None: it came without one)."""

    asked: str
    spec: EncoderSpec
    weights: dict[str, torch.Tensor]
    made: Made
    head: Head | None
    notes: list[str]

    @classmethod
    def read(cls, workspace: Workspace, settings: FinetuneSettings) -> Self:
        """Raises InputError for an encoder that cannot be trained on: arrays, a timm model, an unknown method without a head."""
        workspace.existing_encoder(settings.encoder)
        spec = load_spec(workspace, settings.encoder)
        check_trainable(spec)
        weights = load_weights(workspace, spec)
        head = read_head(workspace.encoder(spec.name) / "head.safetensors")
        without = "came without its head"
        if head is not None:
            try:
                _, made, notes = put_together(spec, weights, head, settings.method)
                return cls(settings.method, spec, weights, made, head, notes)
            except UnknownHead:
                if settings.method not in METHODS.names():
                    raise
                without = f"came with a head that is none of {settings.method}"
        name = settings.method or spec.method
        if settings.method not in ("", *METHODS.names()):
            raise unknown_name("method", settings.method, METHODS.names(), "")
        if name not in METHODS.names():
            raise InputError(
                f'encoder "{spec.name}" came without its head and its method is {name}. '
                f"Say which loss to go on with: --method {'|'.join(METHODS.names())}"
            )
        method = METHODS[name]
        made = Made(method=name, options=method.options, views=method.views, size=spec.input.size)
        note = f"{spec.name} {without}: a fresh one is trained on the frozen encoder for {settings.head_epochs} epochs"
        return cls(settings.method, spec, weights, made, None, [note])

    def method(self) -> Method:
        """The method as it was when the encoder was stored."""
        if self.head is None:
            return begin_anew(self.spec, self.weights, self.made)
        return put_together(self.spec, self.weights, self.head, self.asked)[0]


def name_taken(name: str) -> InputError:
    return InputError(
        f'encoder "{name}" is already there, made in another way. '
        f"Choose another --name or remove it: sslviz encoders remove {name}"
    )
