"""Run by `make gpu` on a machine with an NVIDIA GPU: what is true on the CPU is true there."""

import pytest
import torch

from sslviz.encoders.run import load_encoder
from sslviz.methods import METHODS
from tests.inputs import picture, pixels, small_encoder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
IMAGES = torch.stack([pixels(picture(s, kind=s)) for s in range(6)])


def test_embeddings_are_those_of_the_cpu(workspace):
    small_encoder(workspace)
    there = load_encoder(workspace, "tiny", "cuda").embed(IMAGES).cpu()
    torch.testing.assert_close(there, load_encoder(workspace, "tiny").embed(IMAGES), rtol=1e-3, atol=1e-3)


def test_a_training_step_runs(workspace):
    small_encoder(workspace)
    method = METHODS["simclr"](load_encoder(workspace, "tiny").backbone.requires_grad_(True).train(), 32).cuda()
    loss, _ = method([torch.randn(8, 3, 32, 32, device="cuda") for _ in range(2)])
    loss.backward()
    assert torch.isfinite(loss)
