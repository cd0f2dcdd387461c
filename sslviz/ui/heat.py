"""Where the encoder looks, live: one picture's heatmap by any method, layer and feature; and a feature's strongest images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.analysis.looks import shrunk
from sslviz.analysis.masks import centre_blob, mask_iou
from sslviz.data.dataset import load
from sslviz.data.loading import read_picture
from sslviz.data.masks import mask_facts
from sslviz.encoders.spec import load_spec
from sslviz.errors import EXPECTED, InputError, said
from sslviz.heatmaps import HEATMAPS, explain, finish
from sslviz.heatmaps.hiding import fall_when_hidden
from sslviz.heatmaps.layers import Subject
from sslviz.store.workspace import Workspace
from sslviz.ui import live, overlays, widgets
from sslviz.ui.frame import Frame
from sslviz.ui.widgets import percent, plain

_SIDE = 448
_HIDDEN = 0.2


@dataclass(frozen=True)
class _Ways:
    """How an encoder can be explained: methods, best first; its layers, name -> words; the usual one and the size of its maps."""

    methods: tuple[str, ...]
    layers: dict[str, str]
    usual: str
    map_size: tuple[int, int]


@dataclass(frozen=True)
class _Seen:
    """A picture as the encoder sees it uint8[S, S, 3], its heat float[S, S], how far the features fall when parts are hidden, and
    the picture's width and height."""

    pixels: np.ndarray
    heat: np.ndarray
    hot: float
    elsewhere: float
    picture: tuple[int, int]


def show(here: Frame, found: live.Row, sample_id: str) -> None:
    """The picture under its heat, with method, layer and feature to choose, outlines of its masks, and a check by hiding."""
    if here.dataset.root is None:
        st.info("This data set was imported as arrays; there is no picture.")
        return
    try:
        ways = _ways(here)
        left, right = st.columns([1, 1], gap="large")
        with right:
            method, layer = _choose_method(ways)
            features = _choose_features(found, sample_id)
        seen = _look(*_key(here), sample_id, here.dataset.fingerprint, method, layer, tuple(features))
    except EXPECTED as error:
        st.warning(f"It cannot be shown here: {plain(said(error))}")
        return
    try:
        masks = _masks(here, sample_id, seen)
    except EXPECTED as error:
        masks = {}
        with right:
            st.warning(f"Without its masks: {plain(said(error))}")
    outlines = {kind: overlays.data_url(overlays.outline_rgba(mask, kind, _SIDE)) for kind, mask in masks.items()}
    with left:
        widgets.overlay(
            overlays.data_url(seen.pixels),
            overlays.data_url(overlays.heat_rgba(seen.heat)),
            outlines,
            alt=f"{sample_id} under the heatmap of {_said(features, found)}",
            key="overlay",
        )
    with right:
        _say(seen, masks, ways, method, layer, features)


def _key(here: Frame) -> tuple[str, str, str, str]:
    return str(here.workspace.root), here.dataset.name, here.encoder, load_spec(here.workspace, here.encoder).fingerprint()


def _choose_method(ways: _Ways) -> tuple[str, str | None]:
    titles = {name: HEATMAPS[name].title for name in ways.methods}
    method = st.segmented_control(
        "Method", ways.methods, default=ways.methods[0], format_func=titles.__getitem__, key="heat-method"
    )
    method = method or ways.methods[0]
    if method != "gradcam" or len(ways.layers) < 2:
        return method, None
    names = list(ways.layers)
    layer = st.selectbox("Layer", names, names.index(ways.usual), format_func=ways.layers.__getitem__, key="heat-layer")
    return method, layer


def _choose_features(found: live.Row, sample_id: str) -> list[int]:
    """All discriminative features that fire, or any one, step by step: first those, then the others, strongest first."""
    others = np.argsort(-found.h, kind="stable")
    steps = [None, *found.chosen.tolist(), *others[~np.isin(others, found.chosen)].tolist()]
    firing = set(found.firing.tolist())
    key = f"heat-feature-{sample_id}"

    def say(feature: int | None) -> str:
        if feature is None:
            return f"all {len(found.chosen)} that fire in D"
        where = "" if feature in found.chosen else ", fires outside D" if feature in firing else ", does not fire"
        return f"feature {feature} ({found.h[feature]:.3f}{where})"

    def step(by: int) -> None:
        at = steps.index(st.session_state.get(key))
        st.session_state[key] = steps[(at + by) % len(steps)]

    feature = st.selectbox("Features", steps, format_func=say, key=key)
    with st.container(horizontal=True):
        st.button("Previous feature", on_click=step, args=(-1,), icon=":material/chevron_left:", key="heat-before")
        st.button("Next feature", on_click=step, args=(1,), icon=":material/chevron_right:", key="heat-next")
        if feature is not None and st.button(f"Open feature {feature}", icon=":material/category:", key="heat-open"):
            widgets.go_to("features", feature=str(feature))
    if feature is None and not len(found.chosen):
        st.caption("No discriminative feature fires here: the map is empty.")
    return found.chosen.tolist() if feature is None else [feature]


def _said(features: list[int], found: live.Row) -> str:
    return f"feature {features[0]}" if len(features) == 1 else f"all {len(found.chosen)} firing discriminative features"


def _say(seen: _Seen, masks: dict[str, np.ndarray], ways: _Ways, method: str, layer: str | None, features: list[int]) -> None:
    where = "" if not HEATMAPS[method].needs_layer else f", layer {ways.layers.get(layer or ways.usual, ways.usual)}"
    exact = " Exact: the features are the means of these maps." if method == "activation" else ""
    st.caption(plain(f"{HEATMAPS[method].title}{where}.") + exact)
    if seen.heat.max() == 0:
        st.info("No positive evidence: the map is zero everywhere.")
        return
    if not np.isnan(seen.hot):
        one = len(features) == 1
        these = "this feature" if one else "the sum of these features"
        st.markdown(
            f"Hiding the hottest fifth of the picture lowers {these} by **{percent(seen.hot, 0)}**; hiding a "
            f"patch of the same shape elsewhere lowers it by {percent(seen.elsewhere, 0)}"
            + ("." if seen.hot > seen.elsewhere else f": {'it hangs' if one else 'they hang'} on other places at least as much.")
        )
    if any(mask.any() for mask in masks.values()):
        blob = centre_blob(*seen.heat.shape)
        line = ", ".join(
            f"**{kind}** {float(mask_iou(seen.heat[None], mask[None])[0]):.2f} "
            f"(a blob in the middle: {float(mask_iou(blob[None], mask[None])[0]):.2f})"
            for kind, mask in masks.items()
            if mask.any()
        )
        st.markdown(f"Overlap with the masks (IoU weighted by heat): {line}. Compare maps of one method only.")
        if "core" in masks and method == "activation" and masks["core"].any():
            st.caption(f"The mask itself, as a map of this size, reaches {_ceiling(masks['core'], ways):.2f}.")


def _ceiling(mask: np.ndarray, ways: _Ways) -> float:
    import torch

    best = finish(torch.from_numpy(shrunk(mask[None], ways.map_size)), (mask.shape[0], mask.shape[1]))
    return float(mask_iou(best.numpy(), mask[None])[0])


def _masks(here: Frame, sample_id: str, seen: _Seen) -> dict[str, np.ndarray]:
    facts = mask_facts(here.dataset)
    if facts is None:
        return {}
    found = overlays.stored_masks(str(here.dataset.folder), here.dataset.fingerprint, facts["fingerprint"])
    spec = load_spec(here.workspace, here.encoder).input
    return dict(sorted(found.read(sample_id, seen.picture, spec.resize, spec.size).items()))


def _ways(here: Frame) -> _Ways:
    root, _, encoder, fingerprint = _key(here)
    return _find_ways(root, encoder, fingerprint)


@st.cache_data(max_entries=8, show_spinner="Finding the encoder's layers")
def _find_ways(root: str, name: str, fingerprint: str) -> _Ways:
    import torch

    encoder = live.encoder(root, name, fingerprint)
    size = encoder.spec.input.size
    with Subject(encoder) as subject:
        subject.inputs(torch.full((1, 3, size, size), 128, dtype=torch.uint8))
        layers = {layer.name: layer.words for layer in subject.offered()}
        if not subject.has_maps:
            return _Ways(("integrated_gradients",), {}, "", (size, size))
        usual = subject.layer(None)
        layers.setdefault(usual.name, usual.words)
        exact = ("activation",) if subject.is_exact(None) else ()
        return _Ways((*exact, "gradcam", "integrated_gradients"), layers, usual.name, subject.map_size(None))


@st.cache_data(max_entries=32, show_spinner=False)
def _look(
    root: str,
    dataset: str,
    name: str,
    fingerprint: str,
    sample_id: str,
    of: str,
    method: str,
    layer: str | None,
    features: tuple[int, ...],
) -> _Seen:
    """`of`: the data set's fingerprint."""
    encoder = live.encoder(root, name, fingerprint)
    folder = load(Workspace(root), dataset).root
    assert folder is not None
    loaded = read_picture(folder / sample_id, encoder.spec.input.resize, encoder.spec.input.size, thumb=False)
    if loaded.pixels is None:
        raise InputError(f"{sample_id}: {loaded.error}.")
    images, wanted = loaded.pixels[None], np.array(features, np.int64)
    heat = explain(encoder, images, wanted, method, layer).numpy()
    fall = fall_when_hidden(encoder, images, heat, wanted, _HIDDEN)
    pixels = loaded.pixels.permute(1, 2, 0).numpy()
    return _Seen(pixels, heat[0], float(fall.hot[0]), float(fall.elsewhere[0]), (loaded.width, loaded.height))


def strongest(here: Frame, part: pd.DataFrame, feature: int) -> dict[str, str]:
    """sample_id -> address of the picture under the map of one feature, for a feature's strongest images (rows of scores)."""
    ids = tuple(part["sample_id"])
    try:
        return _blends(*_key(here), ids, here.dataset.fingerprint, feature, _ways(here).methods[0])
    except EXPECTED:
        return {}


@st.cache_data(max_entries=64, show_spinner="Looking where it fires")
def _blends(
    root: str, dataset: str, name: str, fingerprint: str, ids: tuple[str, ...], of: str, feature: int, method: str
) -> dict[str, str]:
    import torch

    encoder = live.encoder(root, name, fingerprint)
    folder, spec = load(Workspace(root), dataset).root, encoder.spec.input
    assert folder is not None
    read = {i: read_picture(folder / i, spec.resize, spec.size, thumb=False).pixels for i in ids}
    pixels = {i: p for i, p in read.items() if p is not None}
    if not pixels:
        return {}
    heat = explain(encoder, torch.stack(list(pixels.values())), np.array([feature]), method).numpy()
    shown: Any = zip(pixels.items(), heat, strict=True)
    return {i: overlays.data_url(overlays.blend(p.permute(1, 2, 0).numpy(), h)) for (i, p), h in shown}
