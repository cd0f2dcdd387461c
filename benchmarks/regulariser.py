"""What the Q-Score regulariser adds to a training step: ResNet-18, 256 views, with and without, in turn.

python -m benchmarks.regulariser
"""

import time

import numpy as np
import torch
from torchvision.models import resnet18

from benchmarks.machine import describe
from sslviz.methods import METHODS, Clock
from sslviz.training.regulariser import Objective, Regulariser, RegulariserWeights, Selection

SIZE, VIEWS, ROUNDS = 64, 256, 7
CLOCK = Clock(0, 1, 1, further=True)


def main() -> None:
    print(describe(), flush=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cls = METHODS["simclr"]
    backbone = resnet18()
    backbone.fc = torch.nn.Identity()
    method = cls(backbone, 512, cls.options, 2).to(memory_format=torch.channels_last).train()
    shown = [torch.randn(VIEWS // 2, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-5)
    chosen = Selection(np.arange(0, 512, 2), 1.75)
    objectives = {"without": Objective(method, None), "with": Objective(method, Regulariser(chosen, RegulariserWeights()))}
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    for _ in range(ROUNDS + 1):
        for name, objective in objectives.items():
            start = time.perf_counter()
            loss, *_ = objective(shown, CLOCK)
            loss.backward()
            objective.gradient_norms()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds[name].append(time.perf_counter() - start)
    with_it, without = (np.array(seconds[name][1:]) for name in ("with", "without"))
    best, paired = with_it.min() / without.min() - 1, np.median(with_it / without) - 1
    print(f"a step of {VIEWS} views of {SIZE} px, ResNet-18, one thread: {without.min():.2f} s, with both terms", end=" ")
    print(f"{with_it.min():.2f} s")
    print(f"the regulariser adds {100 * best:+.1f} % (best of {ROUNDS}), {100 * paired:+.1f} % (median of pairs)")


if __name__ == "__main__":
    main()
