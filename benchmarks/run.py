"""All benchmarks, one process each: python -m benchmarks.run"""

import subprocess
import sys

NAMES = ("rows", "listing", "embed_speed", "score_memory", "training", "regulariser", "recipes", "probes", "heatmaps", "pages")

if __name__ == "__main__":
    for name in NAMES:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
