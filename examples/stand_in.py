"""Prepare a workspace with something to look at: rendered still lifes and a SimCLR encoder, embedded and scored here.

A stand-in until the demo set exists. Pictures and encoder ship in assets/stand_in; docs/results.md says how they were made.

    python examples/stand_in.py --workspace workspace
"""

import argparse
from pathlib import Path

import pandas as pd

from sslviz.data.dataset import add_folder
from sslviz.encoders.add import add_encoder
from sslviz.jobs import runner
from sslviz.jobs.analyze import AnalyzeSettings
from sslviz.store.workspace import Workspace

ASSETS = Path(__file__).parents[1] / "assets" / "stand_in"
NAME, ENCODER = "still-lifes", "simclr-still-lifes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", default="workspace")
    workspace = Workspace(parser.parse_args().workspace).create()
    pictures = workspace.root / "pictures" / NAME
    if not pictures.exists():
        for path, content in pd.read_parquet(ASSETS / "images.parquet").itertuples(index=False):
            (pictures / path).parent.mkdir(parents=True, exist_ok=True)
            (pictures / path).write_bytes(content)
    add_folder(workspace, NAME, pictures)
    if ENCODER not in workspace.encoders():
        add_encoder(workspace, str(ASSETS / f"{ENCODER}.safetensors"), ENCODER)
    run_id, how = runner.launch("analyze", AnalyzeSettings(dataset=NAME, encoder=ENCODER), workspace)
    print(f"{how} {run_id}: {NAME} is being embedded and scored; the app shows its progress.")


if __name__ == "__main__":
    main()
