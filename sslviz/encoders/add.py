"""Taking an encoder into a workspace: from a checkpoint file, or by name from the timm library."""

from pathlib import Path
from typing import Any

from sslviz.encoders.spec import EncoderSpec, InputSpec, load_spec
from sslviz.encoders.store import save_encoder
from sslviz.errors import InputError, NotFound
from sslviz.store.workspace import Workspace, check_name, name_from_path


def add_encoder(
    workspace: Workspace,
    source: str,
    name: str | None = None,
    network: str | None = None,
    stem_padding: int | None = None,
    **input_spec: Any,
) -> tuple[EncoderSpec, list[str]]:
    """Store the encoder of a checkpoint file or of `timm:NAME`; returns its spec and remarks to show.

    `input_spec`: mean, std ("0.5 0.5 0.5"), size, resize where they differ from what the doctor found; None keeps that.
    Raises NotFound, InputError, Untrusted: see the checkpoint doctor; InputError when the name belongs to other weights.
    """
    if source.startswith("timm:"):
        return _add_timm(workspace, source.removeprefix("timm:"), name)
    from sslviz.encoders.doctor import read_encoder

    for key in ("mean", "std"):
        input_spec[key] = three_numbers(input_spec.get(key))
    path = Path(source).expanduser().absolute()
    name = check_name("encoder", name or name_from_path(path))
    spec, weights, found = read_encoder(path, name, network, input_spec, stem_padding)
    if name in workspace.encoders():
        old = load_spec(workspace, name)
        if old.source != spec.source or old.network != spec.network or old.architecture != spec.architecture:
            raise InputError(
                f'encoder "{name}" is already there, from {old.source or "elsewhere"}. '
                f"Choose another name or remove it: sslviz encoders remove {name}"
            )
    spec = save_encoder(workspace, spec, weights)
    left = ", ".join(f"{part} ({n})" for part, n in found.left_out.items())
    return spec, [*found.notes, *([f"left out: {left}"] if left else [])]


def three_numbers(text: str | None) -> tuple[float, ...] | None:
    """ "0.5 0.5 0.5" or "0.5,0.5,0.5" -> one number for each of red, green and blue; None and "" -> None."""
    if not text:
        return None
    try:
        values = tuple(float(v) for v in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if len(values) != 3:
        raise InputError(f'"{text}": expected three numbers, for red, green and blue.')
    return values


def _add_timm(workspace: Workspace, model: str, name: str | None) -> tuple[EncoderSpec, list[str]]:
    import timm

    if not timm.is_model(model.split(".")[0]):
        near = timm.list_models(f"*{model.split('.')[0][:8]}*")[:5]
        raise NotFound(f'timm has no model "{model}".' + (f" Near: {', '.join(near)}." if near else ""))
    try:
        net = timm.create_model(model, pretrained=True, num_classes=0)
    except Exception as error:  # timm and its hub raise many kinds when there is no network or no such weights
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"the weights of timm:{model} cannot be had here ({reason}). Is this machine online?") from None
    config = timm.data.resolve_data_config({}, model=net)
    size = int(config["input_size"][-1])
    spec = EncoderSpec(
        name=check_name("encoder", name or name_from_path(Path(model))),
        backbone="timm",
        architecture={"model": model},
        feature_dim=int(net.num_features),
        input=InputSpec(size=size, resize=round(size / float(config["crop_pct"])), mean=config["mean"], std=config["std"]),
        source=f"timm:{model}",
        licence=str(net.pretrained_cfg.get("license") or ""),
    )
    return save_encoder(workspace, spec, net.state_dict()), [f"timm {model}, {spec.feature_dim} features"]
