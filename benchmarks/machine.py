"""What a benchmark ran on: absolute times mean nothing elsewhere, ratios do."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np


def describe() -> str:
    cpu = platform.processor() or "unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        flags = info.read_text()
        cpu = f"{names[0]}, {'AVX-512' if 'avx512f' in flags else 'AVX2'}" if names else cpu
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy", "numba", "zarr", "scikit-learn"))
    read = f"one read of 1 GB takes {read_one_gigabyte():.3f} s"
    return f"{os.cpu_count()} cores, {cpu}; {read}; Python {platform.python_version()}, {packages}"


def read_one_gigabyte() -> float:
    """Seconds to sum 1 GB of float32 in memory, one thread, best of three."""
    data = np.ones(250_000_000, np.float32)
    return min(timed(data.sum) for _ in range(3))


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
