"""Peak memory of scoring a large float16 store (ImageNet-1K x ResNet-50 size) that is made here first.

Rows are max(0, normal) plus 8 on a random 4 % of the entries, so that features fire at eps 4; the share is printed.

    python -m benchmarks.score_memory [--rows 1280000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.machine import describe
from sslviz.data import dataset as datasets
from sslviz.encoders.spec import EncoderSpec, InputSpec
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.files import write_json
from sslviz.store.workspace import Workspace

WIDTH = 2048
SCORE = """
import json, resource, sys
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace
result = score(ScoreSettings(dataset="big", encoder="big"), Workspace(sys.argv[1]), Progress())
keep = {k: result[k] for k in ("n", "eps", "mean_share", "mean_share_paper", "empty_share", "rank_me")}
print(json.dumps({**keep, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
"""


def make(workspace: Workspace, n: int) -> None:
    samples = pd.DataFrame({"sample_id": [f"train/{i:07d}" for i in range(n)], "split": "train", "label_name": None, "label": -1})
    samples["size"], samples["mtime_ns"] = 0, 0
    facts = {"name": "big", "kind": "arrays", "root": None, "classes": [], "notes": [], "counts": {"train": n}}
    dataset = datasets.save(workspace, "big", facts, samples)
    spec = EncoderSpec(name="big", backbone="arrays", architecture={}, feature_dim=WIDTH, input=InputSpec(), source="benchmark")
    write_json(workspace.encoder("big") / "encoder.json", spec.model_dump(mode="json"))
    store = EmbeddingStore(workspace.embeddings("big", "big"))
    depends = {"encoder": spec.fingerprint(), "precision": "imported", "dtype": "float16"}
    plan = store.begin(depends, WIDTH, "float16", None, dataset.samples)
    rng = np.random.default_rng(0)
    for chunk, rows in plan.groupby("chunk"):
        shape = (len(rows), WIDTH)
        values = np.maximum(rng.standard_normal(shape, dtype=np.float32), 0)
        values += 8 * (rng.random(shape, dtype=np.float32) < 0.04)
        part = rows[["sample_id", "row", "size", "mtime_ns"]].assign(sha256="", width=0, height=0, error="", remark="")
        store.write_chunk(int(chunk), values, part)
    store.finish()
    write_json(store.folder / "meta.json", {**store.meta, "dataset": dataset.fingerprint})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_280_000)
    n = parser.parse_args().rows
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        workspace = Workspace(Path(folder) / "workspace").create()
        start = time.monotonic()
        make(workspace, n)
        made = time.monotonic() - start
        done = subprocess.run([sys.executable, "-c", SCORE, str(workspace.root)], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        result = json.loads(done.stdout.splitlines()[-1])
        print(describe())
        print(f"{n:,} x {WIDTH} float16 made in {made:.0f} s, scored in {time.monotonic() - start - made:.0f} s: {result}")
        print(f"peak memory {result['peak_gb']:.2f} GB; limit 1.5 GB; ratio {result['peak_gb'] / 1.5:.2f}")


if __name__ == "__main__":
    main()
