"""What a training step needs here: seconds and memory, measured on a few images."""

import time
from dataclasses import dataclass

import torch

from sslviz.methods import Clock, Method, Views
from sslviz.training.views import local_size

_IMAGES = 16


@dataclass(frozen=True)
class StepCost:
    """Of one step: seconds, and bytes for what the backward pass keeps, weights, their gradients and momentum."""

    seconds: float
    bytes: int


def step_cost(method: Method, views: Views, size: int, batch_size: int, device: torch.device) -> StepCost:
    """Measure a step on 16 images and scale it to the batch; what the method keeps of batches (a queue) moves on."""
    method = method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.train()
    n = min(_IMAGES, batch_size)
    sizes = [size] * views.n_views + [local_size(size)] * views.n_local
    shown = [torch.randn(n, 3, s, s, device=device).contiguous(memory_format=torch.channels_last) for s in sizes]
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    seconds = []
    for _ in range(2):  # the first also counts bytes and warms up
        kept.clear()
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = method(shown, Clock(0, 1, 1, further=True)).loss
        loss.backward()
        method.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    whole = sum(t.numel() * t.element_size() for t in method.state_dict().values())
    return StepCost(seconds[-1] * batch_size / n, int(sum(kept.values()) * batch_size / n) + whole + 2 * trained)
