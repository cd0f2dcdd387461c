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


def step_cost(
    method: Method, views: Views, size: int, batch_size: int, device: torch.device, precision: str = "32-true"
) -> StepCost:
    """Measure a step on 16 images and, for what does not grow with them, on 8, and go on to the batch; what the method keeps of
    batches (a queue) moves on. Similarities between all images of a batch (SimCLR) count as if they grew with it only."""
    method = method.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.train()
    n = min(_IMAGES, batch_size)
    seconds, kept = _step(method, views, size, n, device, precision)
    if batch_size > n:
        half = n // 2
        kept += (kept - _step(method, views, size, half, device, precision)[1]) * (batch_size - n) // (n - half)
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    whole = sum(t.numel() * t.element_size() for t in method.state_dict().values())
    return StepCost(seconds * batch_size / n, kept + whole + 2 * trained)


def _step(method: Method, views: Views, size: int, n: int, device: torch.device, precision: str) -> tuple[float, int]:
    """(seconds of a step on n images, bytes that its backward pass keeps besides weights)."""
    own = {tensor.untyped_storage().data_ptr() for tensor in method.state_dict(keep_vars=True).values()}
    sizes = [size] * views.n_views + [local_size(size)] * views.n_local
    shown = [torch.randn(n, 3, s, s, device=device).contiguous(memory_format=torch.channels_last) for s in sizes]
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:  # a weight may be kept as a view of it
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seconds = []
    for _ in range(2):  # the first also counts bytes and warms up
        kept.clear()
        began = time.perf_counter()
        rounded = torch.autocast(device.type, torch.bfloat16, enabled=precision != "32-true")
        with rounded, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = method(shown, Clock(0, 1, 1, further=True)).loss
        loss.backward()
        method.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[-1], sum(kept.values())
