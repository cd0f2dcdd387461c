"""Activation shares and Q-Scores in memory, against two plain read passes over the same matrix.

python -m benchmarks.rows [--rows 200000]
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.machine import describe, timed
from sslviz import q_score, select_features


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    n, d = parser.parse_args().rows, 2048
    rng = np.random.default_rng(0)
    H = np.maximum(rng.standard_normal((n, d), dtype=np.float32), 0)
    select_features(H[:64])
    q_score(H[:64], np.arange(8))

    def read() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda start: H[start : start + 512].sum(), range(0, n, 512)))

    def ours() -> None:
        q_score(H, select_features(H))

    passes, both = min(timed(read) for _ in range(5)), min(timed(ours) for _ in range(5))
    alone = min(timed(H.sum) for _ in range(3))
    print(describe())
    print(f"shares + Q at {n:,} x {d}, all cores: {both:.2f} s, the check for NaN included")
    print(f"two read passes, all cores: {2 * passes:.2f} s, ratio {both / (2 * passes):.2f}")
    print(f"two read passes, one core: {2 * alone:.2f} s, ratio {both / (2 * alone):.2f}")


if __name__ == "__main__":
    main()
