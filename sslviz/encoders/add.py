"""Taking an encoder into a workspace: from a checkpoint file, or by name from timm and the Hugging Face hub."""

import json
import math
from pathlib import Path
from typing import Any

from sslviz.encoders.spec import EncoderSpec, input_of, load_spec
from sslviz.encoders.store import Head, read_head, save_encoder
from sslviz.errors import InputError, NotFound, in_one_line, shown
from sslviz.store.files import only_writer, read_json
from sslviz.store.workspace import Workspace, check_name, name_from_path

_MOST_CARD = 1 << 20


def add_encoder(
    workspace: Workspace,
    source: str,
    name: str | None = None,
    network: str | None = None,
    stem_padding: int | None = None,
    origin: str = "",
    licence: str = "",
    method: str = "",
    **input_spec: Any,
) -> tuple[EncoderSpec, list[str]]:
    """Store the encoder of a checkpoint file, of `timm:NAME`, `hf:REPO` or `hf:REPO/FILE`; returns its spec and remarks.

    `origin`, with licence and method: the address the file was downloaded from. `input_spec`: mean, std ("0.5 0.5 0.5"),
    size, resize where they differ from what the doctor found; None keeps that. A head.safetensors and a card.json beside
    weights of our own are stored too.
    Raises NotFound, InputError, Untrusted: see the checkpoint doctor; InputError when the name belongs to other weights, or a
    hub cannot be reached.
    """
    for key in ("mean", "std"):
        input_spec[key] = three_numbers(input_spec.get(key))
    for key in ("size", "resize"):
        input_spec[key] = _pixels(key, input_spec.get(key))
    changes = {k: v for k, v in input_spec.items() if v is not None}
    given = {"--network": network, "--stem-padding": stem_padding}
    beside = [flag for flag, value in given.items() if value is not None]
    if source.startswith("timm:"):
        return _add_timm(workspace, source.removeprefix("timm:"), name, changes, beside)
    if source.startswith("hf:"):
        found_file = hub_file(source.removeprefix("hf:"))
        if found_file is None:
            return _add_timm(workspace, f"hf-hub:{source.removeprefix('hf:')}", name, changes, beside)
        name = name or name_from_path(Path(source.removeprefix("hf:")))
        source = str(found_file)
    from sslviz.encoders.doctor import read_encoder

    path = Path(source).expanduser().absolute()
    name = check_name("encoder", name or name_from_path(path))
    spec, weights, found = read_encoder(path, name, network, input_spec, stem_padding)
    if origin:
        spec = spec.model_copy(update={"source": f"{origin}, sha256 {found.sha256}", "licence": licence, "method": method})
    head, card = (path.with_name(part) for part in ("head.safetensors", "card.json"))
    ours = found.writer == "sslviz"
    spec = _save(workspace, spec, weights, read_head(head) if ours else found.head, _card(card) if ours else None)
    left = ", ".join(f"{part} ({n})" for part, n in found.left_out.items())
    return spec, [*found.notes, *([f"left out: {left}"] if left else [])]


def _save(
    workspace: Workspace,
    spec: EncoderSpec,
    weights: dict[str, Any],
    head: Head | None = None,
    card: dict[str, Any] | None = None,
) -> EncoderSpec:
    """Store an encoder of this name, one at a time. Raises InputError where the name belongs to other weights."""
    with only_writer(workspace.create().encoder(spec.name), f"encoder {spec.name}", wait=True):
        _check_free(workspace, spec)
        return save_encoder(workspace, spec, weights, head, card)


def _card(path: Path) -> dict[str, Any] | None:
    """What a card says; None for what is none: a link (it could lead anywhere), a large file, no JSON."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_CARD:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _pixels(key: str, given: Any) -> int | None:
    try:
        return None if given in (None, "") else int(given)
    except ValueError:
        raise InputError(f'{key} is "{given}"; expected a number of pixels.') from None


def _check_free(workspace: Workspace, spec: EncoderSpec) -> None:
    """Raises InputError where the name belongs to other weights."""
    if spec.name in workspace.encoders():
        old = load_spec(workspace, spec.name)
        if old.source != spec.source or old.network != spec.network or old.architecture != spec.architecture:
            raise InputError(
                f'encoder "{spec.name}" is already there, from {old.source or "elsewhere"}. '
                f"Choose another name or remove it: sslviz encoders remove {spec.name}"
            )


def three_numbers(text: str | None) -> tuple[float, ...] | None:
    """ "0.5 0.5 0.5" or "0.5,0.5,0.5" -> one number for each of red, green and blue; None and "" -> None."""
    if not text:
        return None
    try:
        values = tuple(float(v) for v in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise InputError(f'"{text}": expected three numbers, for red, green and blue.')
    return values


def hub_file(repository: str) -> Path | None:
    """The checkpoint file of `OWNER/REPO` or `OWNER/REPO/FILE` on the Hugging Face hub, downloaded; None for a timm repository.

    Raises NotFound, InputError: no such repository or file, several to choose from, no network.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError, RepositoryNotFoundError

    repo, wanted = "/".join(repository.split("/")[:2]), "/".join(repository.split("/")[2:])
    try:
        if not wanted:
            # not list_repo_files, which waits 23 seconds where there is no network
            names = [found.rfilename for found in HfApi().model_info(repo).siblings or []]
            if "config.json" in names and _is_timm(Path(hf_hub_download(repo, "config.json"))):
                return None
            files = [n for n in names if n.endswith((".safetensors", ".pth", ".pt", ".ckpt", ".tar", ".bin"))]
            if len(files) != 1:
                raise InputError(f"hf:{repo} holds {len(files)} checkpoint files: {shown(files)}. Say which: hf:{repo}/FILE")
            wanted = files[0]
        return Path(hf_hub_download(repo, wanted))
    except (RepositoryNotFoundError, RemoteEntryNotFoundError):
        raise NotFound(f"the Hugging Face hub has no {repository} (or it is private: set HF_TOKEN).") from None
    except HFValidationError:
        raise InputError(f'"{repository}": expected OWNER/REPO or OWNER/REPO/FILE after hf:') from None
    except InputError:
        raise
    except Exception as error:  # the hub's client raises many kinds when there is no network
        raise InputError(f"hf:{repository} could not be downloaded ({in_one_line(error)}). Is this machine online?") from None


def _is_timm(config: Path) -> bool:
    content = read_json(config)
    return isinstance(content, dict) and "architecture" in content


def inspect_source(source: str, network: str | None = None) -> dict[str, Any]:
    """What the checkpoint doctor says of a file, of `hf:REPO` or `hf:REPO/FILE` (downloaded), or what `timm:NAME` is.

    Raises NotFound, InputError, Untrusted: see `add_encoder`. A file that no encoder can be taken from is not an error: its
    `refusal` says why.
    """
    from sslviz.encoders.doctor import inspect_file, report

    if source.startswith("timm:"):
        return _timm_facts(source.removeprefix("timm:"), network)
    if source.startswith("hf:"):
        file = hub_file(source.removeprefix("hf:"))
        if file is None:
            return _timm_facts(f"hf-hub:{source.removeprefix('hf:')}", network)
        source = str(file)
    return report(inspect_file(Path(source).expanduser(), network))


def _timm_facts(model: str, network: str | None) -> dict[str, Any]:
    spec, _, remark = _timm(model, "timm", {}, [] if network is None else ["--network"], pretrained=False)
    facts = spec.model_dump(include={"source", "architecture", "feature_dim", "input", "licence"})
    return {**facts, "notes": [remark, *spec.notes], "refusal": ""}


def _add_timm(
    workspace: Workspace, model: str, name: str | None, changes: dict[str, Any], beside: list[str]
) -> tuple[EncoderSpec, list[str]]:
    name = check_name("encoder", name or name_from_path(Path(model.removeprefix("hf-hub:"))))
    spec, net, remark = _timm(model, name, changes, beside, pretrained=True)
    return _save(workspace, spec, net.state_dict()), [remark, *spec.notes]


def _timm(model: str, name: str, changes: dict[str, Any], beside: list[str], pretrained: bool) -> tuple[EncoderSpec, Any, str]:
    """A model of timm's, with its weights or only built, and what it is in words. `beside`: flags that it cannot take."""
    import timm

    if beside:
        raise InputError(f"a timm model is one network as it is; leave {' and '.join(beside)} out.")
    on_hub = model.startswith("hf-hub:")
    if not on_hub and not timm.is_model(model.split(".")[0]):
        near = timm.list_models(f"*{model.split('.')[0][:8]}*")[:5]
        raise NotFound(f'timm has no model "{model}".' + (f" Near: {', '.join(near)}." if near else ""))
    source = f"hf:{model.removeprefix('hf-hub:')}" if on_hub else f"timm:{model}"
    try:
        net = timm.create_model(model, pretrained=pretrained, num_classes=0)
    except Exception as error:  # timm and its hub raise many kinds when there is no network or no such weights
        raise InputError(
            f"the weights of {source} could not be downloaded ({in_one_line(error)}). Is this machine online?"
        ) from None
    config = timm.data.resolve_data_config({}, model=net)
    size = int(changes.get("size") or config["input_size"][-1])
    bilinear = config["interpolation"] == "bilinear"
    own = {"size": size, "resize": round(size / float(config["crop_pct"])), "mean": config["mean"], "std": config["std"]}
    spec = EncoderSpec(
        name=name,
        backbone="timm",
        architecture={"model": str(net.pretrained_cfg["architecture"]) if on_hub else model},
        feature_dim=_width(net, size, source),
        input=input_of({**own, **changes}),
        source=source,
        licence=str(net.pretrained_cfg.get("license") or ""),
        notes=()
        if bilinear
        else (f"its own evaluation resizes pictures by {config['interpolation']} interpolation, here by bilinear",),
    )
    return spec, net, f"{source}: {net.pretrained_cfg['architecture']}, {spec.feature_dim} features"


def _width(net: Any, size: int, source: str) -> int:
    """Features that a timm model gives for pictures of this size; its num_features is another number in some."""
    import torch

    try:
        with torch.no_grad():
            features = net.eval()(torch.zeros(1, 3, size, size))
    except Exception as error:  # each model checks its input in its own way
        raise InputError(f"{source} takes no pictures of {size} px ({in_one_line(error)}).") from None
    if features.ndim != 2:
        raise InputError(f"{source} gives {tuple(features.shape[1:])} for a picture; expected one row of features.")
    return int(features.shape[1])
