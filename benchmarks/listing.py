"""Listing a data set of 300,000 files by name and size, against os.walk with a stat of each file.

python -m benchmarks.listing
"""

import os
import tempfile
from pathlib import Path

from benchmarks.machine import describe, timed
from sslviz.data.folder import list_folder

CLASSES, EACH = 1000, 300


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "train"
        for c in range(CLASSES):
            place = root / f"class{c:04d}"
            place.mkdir(parents=True)
            for i in range(EACH):
                (place / f"{i:05d}.jpg").touch()

        def walk() -> None:
            for where, _, names in os.walk(root):
                for name in names:
                    os.stat(os.path.join(where, name))

        peer = min(timed(walk) for _ in range(2))
        ours = min(timed(lambda: list_folder(root.parent)) for _ in range(2))
        print(describe())
        print(f"{CLASSES * EACH:,} files: {ours:.1f} s, os.walk and stat {peer:.1f} s; ratio {ours / peer:.2f}")


if __name__ == "__main__":
    main()
