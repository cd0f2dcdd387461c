"""Run by `make gpu` on a machine with an NVIDIA GPU: what is true on the CPU is true there."""

import pytest
import torch

from sslviz.encoders.run import load_encoder
from sslviz.heatmaps import explain, feature_maps
from tests.contracts.test_methods import EVERY, SECOND_EPOCH, make, views_of
from tests.inputs import picture, pixels, small_encoder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
DEVICE = "cuda"
IMAGES = torch.stack([pixels(picture(s, kind=s)) for s in range(6)])


def test_embeddings_are_those_of_the_cpu(workspace):
    small_encoder(workspace)
    there = load_encoder(workspace, "tiny", DEVICE).embed(IMAGES).cpu()
    torch.testing.assert_close(there, load_encoder(workspace, "tiny").embed(IMAGES), rtol=1e-3, atol=1e-3)


@EVERY
def test_a_training_step_is_that_of_the_cpu(name):
    here, there = make(name), make(name).to(DEVICE)
    ours = there([view.to(DEVICE) for view in views_of(name)], SECOND_EPOCH).loss
    theirs = here(views_of(name), SECOND_EPOCH).loss
    torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-3)
    ours.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in there.parameters())


def test_heatmaps_are_those_of_the_cpu(workspace):
    small_encoder(workspace)
    here, there = load_encoder(workspace, "tiny"), load_encoder(workspace, "tiny", DEVICE)
    for maps in (
        lambda encoder: feature_maps(encoder, IMAGES, [3, 5]),
        lambda encoder: feature_maps(encoder, IMAGES, [3], layer="layer3"),
        lambda encoder: explain(encoder, IMAGES, [3, 5]),
        lambda encoder: explain(encoder, IMAGES.numpy(), [3, 5], method="integrated_gradients"),
    ):
        torch.testing.assert_close(torch.as_tensor(maps(there)), torch.as_tensor(maps(here)), rtol=1e-2, atol=1e-3)
