"""Forms: a folder and a checkpoint in, a running job out."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from sslviz.data import dataset as datasets
from sslviz.data.masks import add_masks, mask_facts
from sslviz.encoders.spec import load_spec
from sslviz.errors import EXPECTED, InputError, Untrusted, said
from sslviz.jobs import Settings, parse
from sslviz.jobs.analyze import AnalyzeSettings
from sslviz.methods import METHODS
from sslviz.store.workspace import Workspace, check_name, name_from_path
from sslviz.ui import reads, widgets
from sslviz.ui.widgets import plain

_FOLDER, _FILE = "a folder", "a checkpoint file"
_SPELT = {"lr": "learning rate", "l2": "L2"}


def allowed_roots() -> list[Path]:
    """Folders a browser may name files in: $SSLVIZ_ROOTS (separated as $PATH is), default home and where the app was started."""
    given = os.environ.get("SSLVIZ_ROOTS")
    return [Path(p).resolve() for p in given.split(os.pathsep)] if given else [Path.home().resolve(), Path.cwd().resolve()]


def allowed_path(text: str) -> Path:
    """A path typed into the browser, links resolved. Raises Untrusted outside the allowed folders."""
    if not text.strip():
        raise InputError("name a folder or file first.")
    try:
        path = Path(text.strip()).expanduser()
        resolved = path.resolve()
    except (RuntimeError, ValueError):  # of nobody's home, a link to itself
        raise InputError(f"{text.strip()} is no path on this machine.") from None
    roots = allowed_roots()
    if not any(resolved.is_relative_to(root) for root in roots):
        raise Untrusted(
            f"{path} lies outside the folders that may be named in the browser ({', '.join(map(str, roots))}). "
            f"Start the app with --root FOLDER, or register it on the command line."
        )
    return path.absolute()


def analyze_form(workspace: Workspace) -> None:
    """The form of `sslviz analyze`: one button; and what it brings in, each alone."""
    left, right = st.columns(2)
    with left:
        images = st.selectbox("Images", [_FOLDER, *workspace.datasets()], key="form-images")
        folder = ""
        if images == _FOLDER:
            folder = st.text_input("Folder of images", key="form-folder", placeholder="~/photos", persist_state="session")
            st.caption(
                "Read on the machine that runs sslviz; split folders (train, val, test) and class folders are used where present."
            )
    with right:
        choices = [_FILE, *workspace.encoders()]
        choice = st.selectbox("Encoder", choices, index=int(len(choices) > 1), key="form-encoder")
        file = ""
        if choice == _FILE:
            file = st.text_input("Checkpoint file", key="form-file", placeholder="~/simclr.ckpt", persist_state="session")
            if file and st.button("Inspect the checkpoint", icon=":material/stethoscope:"):
                inspect(file, st.session_state.get("input-network") or None)
    with st.expander("More settings"):
        settings = settings_fields(AnalyzeSettings, skip={"dataset", "encoder"})
        input_spec = input_fields() if choice == _FILE else {}
    if added := st.session_state.pop("_added", None):
        st.success(plain(f"{added} is in the workspace."))
    complete = settings is not None and bool((folder or images != _FOLDER) and (file or choice != _FILE))
    with st.container(horizontal=True):
        whole = st.button("Analyze", type="primary", disabled=not complete, icon=":material/play_arrow:")
        alone = bool(folder) and st.button("Only add the folder", key="form-add-folder")
        encoder_alone = bool(file) and st.button("Only add the encoder", key="form-add-encoder")
    try:
        if whole or alone:
            images = add_images(workspace, folder) if folder else images
        if whole or encoder_alone:
            choice = add_file(workspace, file, input_spec) if file else choice
    except EXPECTED as error:
        st.error(plain(said(error)))
        return
    if alone or encoder_alone:
        st.session_state["_go"] = {"dataset": images} if alone else {"encoder": choice}
        st.session_state["_added"] = images if alone else choice
        st.rerun()
    elif whole and widgets.start_job(workspace, "analyze", AnalyzeSettings(dataset=images, encoder=choice, **(settings or {}))):
        st.session_state["_go"] = {"dataset": images, "encoder": choice}
        st.switch_page("pages/overview.py", query_params={})


def input_fields() -> dict[str, Any]:
    """What a checkpoint file does not say: which network, and the input it was trained on; blank keeps what the doctor found."""
    st.caption("Leave blank to keep what the checkpoint says or what its library usually uses.")
    columns = st.columns(3)
    labels = {"network": "teacher", "mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225", "size": "224", "resize": "256"}
    texts = {
        key: columns[k % 3].text_input(key, key=f"input-{key}", placeholder=example)
        for k, (key, example) in enumerate(labels.items())
    }
    padding = columns[2].selectbox(
        "padding of a 3x3 stem", [None, 0, 1, 2, 3], format_func=lambda n: "" if n is None else str(n), key="input-padding"
    )
    return {key: text.strip() or None for key, text in texts.items()} | {"stem_padding": padding}


def add_images(workspace: Workspace, folder: str) -> str:
    """Register the folder; returns the data set's name. Raises as `add_folder`; Untrusted outside the allowed folders."""
    root = allowed_path(folder)
    with st.spinner("Listing files"):
        datasets.add_folder(workspace, name_from_path(root), root, inside=allowed_roots())
    return name_from_path(root)


def add_file(workspace: Workspace, file: str, input_spec: dict[str, Any]) -> str:
    """Take the checkpoint's encoder; returns its name. Raises as `add_encoder`; Untrusted outside the allowed folders."""
    from sslviz.encoders.add import add_encoder

    with st.spinner("Reading the checkpoint"):
        return add_encoder(workspace, str(allowed_path(file)), **input_spec)[0].name


def inspect(file: str, network: str | None) -> None:
    """The checkpoint doctor's answer."""
    from sslviz.encoders.doctor import inspect_file, report

    try:
        facts = report(inspect_file(allowed_path(file), network))
    except EXPECTED as error:
        st.error(plain(said(error)))
        return
    if facts["refusal"]:
        st.error(plain(facts["refusal"]))
    else:
        st.success(plain("; ".join(facts["notes"])))
    if facts["networks"]:
        st.dataframe(
            pd.DataFrame(facts["networks"]).drop(columns="head"), hide_index=True, width="stretch", alt="networks in the file"
        )
    if facts["left_out"]:
        layouts = {part: f", {layout}" for part, layout in facts["heads"].items()}
        parts = ", ".join(f"{part} ({n} tensors{layouts.get(part, '')})" for part, n in facts["left_out"].items())
        st.caption(plain(f"Left out: {parts}"))
    words = {k: facts[k] for k in ("container", "writer", "method", "epoch", "tensors", "sha256")}
    st.caption(plain(", ".join(f"{k} {v}" for k, v in words.items() if v is not None)))


def settings_fields(model: type[Settings], skip: set[str], prefix: str = "set", columns: int = 1) -> dict[str, Any] | None:
    """A widget for each field of a job's settings, row by row; returns what differs from the defaults, None where it is wrong."""
    from typing import Literal, get_args, get_origin

    values: dict[str, Any] = {}
    fields = [(name, info) for name, info in model.model_fields.items() if name not in skip]
    for k, (name, info) in enumerate(fields):
        if k % columns == 0:
            row = st.columns(columns, vertical_alignment="bottom")
        place = row[k % columns]
        label, kind = _title(name), info.annotation
        known: dict[str, Any] = {"help": info.description, "key": f"{prefix}-{name}"}
        if get_origin(kind) is Literal:
            options = list(get_args(kind))
            value: Any = place.selectbox(label, options, index=options.index(info.default), **known)
        elif kind is int:
            value = place.number_input(label, value=info.default, step=1, **known)  # a bound here would keep the old value unsaid
        elif kind is bool:
            value = place.checkbox(label, value=info.default, **known)
        else:
            text = place.text_input(label, value="" if info.default is None else str(info.default), **known)
            value = text or info.default
        if value != info.default:
            values[name] = value
    required = {name: "x" for name, info in model.model_fields.items() if info.is_required()}
    try:
        return parse(model, {**required, **values}).model_dump(include=set(values))
    except InputError as error:
        st.error(plain(str(error)))
        return None


def _title(field: str) -> str:
    """A setting's name as a label: "batch_size" is "Batch size"."""
    words = " ".join(_SPELT.get(word, word) for word in field.split("_"))
    return words if field == "eps" else words[0].upper() + words[1:]


def catalogue_form(workspace: Workspace) -> None:
    """Encoders that can be had by name, and the button that takes one in."""
    from sslviz.jobs.import_encoder import ImportEncoderSettings, catalogue, name_of

    st.subheader("Encoders available by name")
    table = pd.DataFrame([asdict(entry) for entry in catalogue(workspace)])
    shown = table.rename(columns={"top1": "top-1 %", "size_mb": "MB", "normalisation": "mean / std"})
    shown = shown.assign(sha256=shown["digest"].str[:12])
    shown = shown[["name", "kind", "method", "features", "top-1 %", "MB", "recipe", "licence", "mean / std", "source", "sha256"]]
    st.dataframe(shown, hide_index=True, width="stretch", height=280, alt="encoders available by name")
    st.caption(
        "Top-1 of a linear probe: on the demo's test images, or for published ones on ImageNet-1K, as their source reports. "
        "Published ones are downloaded; sizes are known after the first download. The command: sslviz encoders add NAME SOURCE."
    )
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    entry = left.selectbox("Encoder to add", [*table["name"], "timm or Hugging Face name"], key="catalogue-entry")
    if entry not in set(table["name"]):
        entry = st.text_input("Name", key="catalogue-hub", placeholder="timm:resnet50.a1_in1k or hf:OWNER/REPO")
    if right.button("Add it", icon=":material/download:", disabled=not entry, key="catalogue-take"):
        if entry.startswith(("timm:", "hf:")) or entry in set(table["name"]):
            _start(workspace, "import_encoder", ImportEncoderSettings(name=name_of(entry), source=entry))
        else:
            st.error("Write timm:NAME or hf:OWNER/REPO.")


def pretrain_form(workspace: Workspace) -> None:
    """The form of `sslviz pretrain`."""
    from sslviz.jobs.pretrain import PretrainSettings

    with st.expander("Pre-train an encoder of your own"):
        names = workspace.datasets()
        if not names:
            st.info("Register a folder of images first, above.")
            return
        left, right = st.columns(2)
        dataset = left.selectbox("Data set", names, key="pretrain-dataset")
        methods = METHODS.names()
        method = right.selectbox("Method", methods, index=methods.index("simclr"), key="pretrain-method")
        values = settings_fields(PretrainSettings, skip={"dataset", "method"}, prefix="pretrain", columns=3)
        if values is None:
            return
        st.caption(
            "Takes hours on a CPU; the run shows its speed and an estimate after ten steps, and can be stopped and resumed."
        )
        if st.button("Pre-train", icon=":material/model_training:", key="pretrain-start"):
            _start(workspace, "pretrain", PretrainSettings(dataset=dataset, method=method, **values))


def known_data_form(workspace: Workspace) -> None:
    """Data sets that are had by name: `sslviz data add NAME torchvision:NAME`."""
    from sslviz.data.sources import SOURCES
    from sslviz.jobs.import_data import ImportDataSettings, name_of

    with st.expander("A data set by name"):
        left, right = st.columns(2)
        known = [f"{source}:{name}" for source in SOURCES for name in SOURCES[source].known]
        open_ended = {f"{source}:{SOURCES[source].form}": source for source in SOURCES if not SOURCES[source].known}
        source = left.selectbox("Data set", [*known, *open_ended], key="known-entry")
        if source in open_ended:
            lead = f"{open_ended[source]}:"
            there = right.text_input("Name on the hub", key="known-hub", placeholder="OWNER/NAME or OWNER/NAME@CONFIG")
            source = lead + there.strip().removeprefix(lead)
        whole = not source.endswith(":")
        name = st.text_input("Name in this workspace", key="known-name", placeholder="as on the hub")
        st.caption(
            "Downloaded with its splits and classes, and its masks where it has some (OxfordIIITPet); the pictures are kept in "
            "the workspace. Imagenette in its version of 320 pixels. Of the hub (hf): data sets with a column of pictures."
        )
        if st.button("Download it", icon=":material/download:", disabled=not whole, key="known-take"):
            try:
                check_source(source)
                settings = ImportDataSettings(name=check_name("data set", name.strip() or name_of(source)), source=source)
            except EXPECTED as error:
                st.error(plain(said(error)))
                return
            _start(workspace, "import_data", settings)


def check_source(source: str) -> None:
    """Raises Untrusted for a folder that a browser may not read."""
    from sslviz.data.sources import split_source
    from sslviz.data.sources.hf import place_of

    kind, name = split_source(source) or ("", "")
    if kind == "hf" and (folder := place_of(name)[2]) is not None:
        allowed_path(str(folder))


def arrays_form(workspace: Workspace) -> None:
    """Embeddings made elsewhere: `sslviz import`."""
    from sslviz.jobs.import_arrays import ImportSettings

    with st.expander("Embeddings made elsewhere"):
        columns = st.columns(3)
        asked = {"file": "~/h.npz", "dataset": "photos", "encoder": "my-encoder", "ids": "", "labels": "", "splits": ""}
        given = {
            key: columns[k % 3].text_input(
                _title(key), key=f"arrays-{key}", placeholder=example, help=ImportSettings.model_fields[key].description
            )
            for k, (key, example) in enumerate(asked.items())
        }
        given = {key: text.strip() for key, text in given.items() if text.strip()}
        complete = {"file", "dataset", "encoder"} <= given.keys()
        if st.button("Import them", icon=":material/input:", disabled=not complete, key="arrays-take"):
            try:
                for key in ("file", "ids", "labels", "splits"):
                    if key in given:
                        given[key] = str(allowed_path(given[key]))
                for key, kind in (("dataset", "data set"), ("encoder", "encoder")):
                    check_name(kind, given[key])
            except EXPECTED as error:
                st.error(plain(said(error)))
                return
            _start(workspace, "import_arrays", ImportSettings(**given))


def masks_form(workspace: Workspace) -> None:
    """The masks of a data set: `sslviz data add --masks`."""
    with st.expander("Masks of what the images show"):
        names = [name for name in workspace.datasets() if _has_folder(workspace, name)]
        if not names:
            st.info("Register a folder of images first, above.")
            return
        left, right = st.columns(2)
        name = left.selectbox("Data set", names, key="masks-dataset")
        folder = right.text_input("Folder of masks", key="masks-folder", placeholder="~/photos/masks")
        st.caption(
            "core/ and spurious/ folders, or one tree named like the images (then the rest of a picture counts as spurious), "
            "Oxford-IIIT Pets trimaps, or Salient ImageNet. Masks are paired by name."
        )
        if st.button("Add the masks", disabled=not folder, icon=":material/texture:", key="masks-add"):
            try:
                found = add_masks(datasets.load(workspace, name), allowed_path(folder), inside=allowed_roots())
            except EXPECTED as error:
                st.error(plain(said(error)))
                return
            counts = found.facts["counts"]
            st.success(
                f"{counts['core']:,} core and {counts['spurious']:,} spurious masks. " + plain("; ".join(found.facts["notes"]))
            )


def _start(workspace: Workspace, job: str, settings: Settings) -> None:
    """Start a run and go to it; stay, with the reason, where it cannot be."""
    if widgets.start_job(workspace, job, settings):
        st.switch_page("pages/runs.py", query_params={"run": st.session_state.pop("run")})


def _has_folder(workspace: Workspace, name: str) -> bool:
    try:
        return reads.listed(workspace, name).root is not None
    except EXPECTED:  # said in the table of data sets
        return False


def show_datasets(workspace: Workspace) -> None:
    """The registered data sets."""
    rows: list[dict[str, Any]] = []
    for name in workspace.datasets():
        try:
            facts = reads.listed(workspace, name).facts
        except EXPECTED as error:
            rows.append({"data set": name, "remarks": said(error)})
            continue
        rows.append(
            {
                "data set": name,
                "images": sum(facts["counts"].values()),
                "splits": ", ".join(f"{k} {n:,}" for k, n in sorted(facts["counts"].items())),
                "classes": len(facts["classes"]),
                "where": facts.get("root") or "arrays",
                "masks": _masks(workspace, name),
                "remarks": "; ".join(facts["notes"]),
            }
        )
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", alt="data sets in this workspace")
    else:
        st.info("No data set yet. Name a folder of images above.")


def _masks(workspace: Workspace, name: str) -> str:
    found = mask_facts(reads.listed(workspace, name))
    return "" if found is None else f"{found['counts']['core']:,} core, {found['counts']['spurious']:,} spurious"


def show_encoders(workspace: Workspace) -> None:
    """The stored encoders, with the input they expect."""
    rows: list[dict[str, Any]] = []
    for name in workspace.encoders():
        try:
            spec = load_spec(workspace, name)
        except EXPECTED as error:
            rows.append({"encoder": name, "source": said(error)})
            continue
        rows.append(
            {
                "encoder": name,
                "method": spec.method,
                "features": spec.feature_dim,
                "input": f"{spec.input.size} px, mean {_short(spec.input.mean)}, std {_short(spec.input.std)}",
                "source": spec.source,
            }
        )
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", alt="encoders in this workspace")
    else:
        st.info("No encoder yet. Name a checkpoint file above.")


def _short(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.3f}" for v in values)
