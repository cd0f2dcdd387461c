"""What an encoder is: the facts stored beside its weights, as encoder.json."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sslviz.errors import InputError
from sslviz.store.files import read_json
from sslviz.store.fingerprints import fingerprint
from sslviz.store.workspace import Workspace

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]


class InputSpec(BaseModel):
    """How a picture becomes the encoder's input: shorter side to `resize`, centre crop to `size`, (x - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(224, ge=8, le=4096, description="side of the square the encoder sees, in pixels")
    resize: int = Field(256, ge=8, le=4096, description="the shorter side is resized to this before the centre crop")
    mean: tuple[Finite, Finite, Finite] = Field(IMAGENET_MEAN, description="subtracted from pixels in 0..1, per channel")
    std: tuple[Positive, Positive, Positive] = Field(IMAGENET_STD, description="divided by, per channel")


def input_of(values: dict[str, Any]) -> InputSpec:
    """An input from plain values. Raises InputError naming the first wrong one."""
    try:
        return InputSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{first['loc'][0]}: {first['msg'][0].lower()}{first['msg'][1:]} (got {first['input']!r}).") from None


class EncoderSpec(BaseModel):
    """One encoder: architecture, input, and where its weights came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    backbone: str = Field(description="family in sslviz.encoders.backbones")
    architecture: dict[str, Any] = Field(description="arguments of the family's build function")
    feature_dim: int = Field(ge=1)
    outputs: tuple[int, ...] = Field((), description="which outputs of the backbone are the features, ascending; () for all")
    input: InputSpec
    method: str = Field("unknown", description="self-supervised method, where known")
    network: str = Field("", description="which of several networks of the file was taken")
    source: str = ""
    licence: str = ""
    digest: str = Field("", description="SHA-256 of weights.safetensors")
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Changes with anything that changes an embedding: weights, architecture or input."""
        return self.fingerprint_of("backbone", "architecture", "feature_dim", "input", "digest")

    def fingerprint_of(self, *fields: str) -> str:
        """Of some fields, and of the outputs where they are selected."""
        return fingerprint(self.model_dump(mode="json", include={*fields} | ({"outputs"} if self.outputs else set())))


def load_spec(workspace: Workspace, name: str) -> EncoderSpec:
    """The stored facts of an encoder. Raises NotFound, or InputError when encoder.json is damaged."""
    path = workspace.existing_encoder(name) / "encoder.json"
    try:
        return EncoderSpec.model_validate_json(json.dumps(read_json(path)))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged. Remove the encoder and add it again: sslviz encoders remove {name}") from None
