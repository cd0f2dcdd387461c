"""Each method's views beside those of lightly's transforms; each writer's, of the files that training goes on from."""

import inspect
from dataclasses import replace

import pytest
from lightly import transforms
from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from lightly.transforms.vicreg_transform import VICRegViewTransform

from sslviz.methods import METHODS
from sslviz.methods.formats import FORMATS

BYOL = (BYOLView1Transform, BYOLView2Transform)
PEERS = {
    "simclr": (transforms.SimCLRTransform,),
    "moco": (transforms.MoCoV2Transform,),
    "byol": BYOL,
    "barlow_twins": BYOL,
    "vicreg": (VICRegViewTransform,),
    "simsiam": (transforms.SimSiamTransform,),
    "swav": (transforms.SwaVTransform,),
    "dino": (transforms.DINOTransform,),
}
ASYMMETRIC = {"byol", "barlow_twins", "dino", "moco v3", "vicreg of the authors"}


def lightlys(method):
    """scale, jitter, its share, grey, flip, and the shares of blur and solarising in the first and the other views."""
    each = [{k: p.default for k, p in inspect.signature(peer.__init__).parameters.items()} for peer in PEERS[method]]
    d = each[0]
    if method == "swav":
        d["min_scale"] = d["crop_min_scales"][0]
    if method == "dino":  # its benchmark's scale; the first view is blurred always and never solarised
        d["min_scale"] = 0.14
        blur, solarise = d["gaussian_blur"], (0.0, d["solarization_prob"], 0.0)
    else:
        pair = (each[0], each[-1])
        blur = tuple(v["gaussian_blur"] for v in pair)
        solarise = tuple(v.get("solarization_prob", v.get("solarize_prob", 0.0)) for v in pair)
    jitter = tuple(d["cj_strength"] * d[f"cj_{k}"] for k in ("bright", "contrast", "sat", "hue"))
    return (d["min_scale"], 1.0), jitter, d["cj_prob"], d["random_gray_scale"], d["hf_prob"], blur, solarise


def ours(views):
    return views.scale, views.jitter, views.jitter_share, views.grey_share, views.flip_share, views.blur, views.solarise


@pytest.mark.parametrize("method", list(METHODS))
def test_views_are_lightlys(method):
    scale, jitter, *rest = lightlys(method)
    if method == "simclr":
        jitter = tuple(v / 2 for v in jitter)  # appendix B.9, CIFAR-10: strength 0.5
    found = ours(METHODS[method].views)
    assert found[0] == scale
    assert found[1] == pytest.approx(jitter)
    assert list(found[2:]) == rest


@pytest.mark.parametrize(("writer", "method"), [key for key in FORMATS if key[0] == "lightly"])
def test_training_from_lightlys_files_goes_on_with_its_views(writer, method):
    scale, jitter, *rest = lightlys(method)
    found = ours(replace(METHODS[method].views, **FORMATS[writer, method].views))
    assert found[0] == scale
    assert found[1] == pytest.approx(jitter)
    assert list(found[2:]) == rest


@pytest.mark.parametrize(("writer", "method"), list(FORMATS))
def test_only_asymmetric_methods_treat_the_second_view_otherwise(writer, method):
    """BYOL's appendix B, which the others follow: the first view is blurred always, the second seldom and solarised."""
    known = method if method in METHODS else "moco"
    views = replace(METHODS[known].views, **FORMATS[writer, method].views)
    name = {"MoCo v3": "moco v3", "VICReg": "vicreg of the authors"}.get(writer, method)
    found = (views.blur[:2], views.solarise[:2])
    assert (found == ((1.0, 0.1), (0.0, 0.2))) == (name in ASYMMETRIC)
    assert name in ASYMMETRIC or (views.blur[0] == views.blur[1] and views.solarise[0] == views.solarise[1])
