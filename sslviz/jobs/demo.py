"""The demo: put the rendered still lifes and their encoders into the workspace and analyse the first encoder."""

from typing import Any

from pydantic import Field

from sslviz.jobs import Settings, job
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace


class DemoSettings(Settings):
    dataset: str = Field("demo", description="name of the data set in the workspace")
    encoder: str = Field("simclr-demo", description="demo encoder to analyse first; the others follow in a run of their own")
    render: bool = Field(False, description="render the pictures here instead of unpacking the shipped ones, and compare the two")


@job("demo", DemoSettings, example="sslviz demo")
def demo(settings: DemoSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Prepare the demo set and its encoders and analyze the first; its map and the other encoders follow in the background."""
    from sslviz.data import dataset as datasets
    from sslviz.data.demo import files
    from sslviz.data.masks import save_packed
    from sslviz.encoders.add import add_encoder
    from sslviz.errors import Busy, InputError, unknown_name
    from sslviz.jobs import runner
    from sslviz.jobs.analyze import AnalyzeSettings, analyze
    from sslviz.jobs.compare import CompareSettings
    from sslviz.jobs.interpret import InterpretSettings
    from sslviz.jobs.project import ProjectSettings
    from sslviz.store.workspace import check_name

    shipped = files.shipped()
    encoders = {path.parent.name: path for path in files.encoder_files()}
    if settings.encoder not in encoders:
        raise unknown_name("demo encoder", settings.encoder, encoders, "")
    folder = workspace.create().dataset(check_name("data set", settings.dataset))
    if settings.dataset in workspace.datasets() and not (folder / "causes.parquet").exists():
        raise InputError(
            f'there is another data set "{settings.dataset}" in this workspace. Name the demo: sslviz demo --dataset NAME'
        )
    source, differ = shipped, None
    if settings.render:
        source = folder / "rendered"
        files.render_files(source, progress)
        if all((shipped / name).exists() for name in files.FILES):
            differ = files.differing(source, shipped)
            if differ:
                progress.warn(
                    f"{differ:,} rendered rows are not equal to the shipped ones, bit for bit (other processor or versions)"
                )
    dataset, _ = datasets.add_folder(workspace, settings.dataset, files.unpack(source, folder, progress))
    save_packed(dataset, files.packed_masks(source))
    for name, path in encoders.items():
        if name not in workspace.encoders():
            add_encoder(workspace, str(path), name)
    names = {"dataset": dataset.name, "encoder": settings.encoder}
    result = analyze(AnalyzeSettings(**names), workspace, progress)
    others = [n for n in encoders if n != settings.encoder]
    follow: list[tuple[str, Settings]] = [("project", ProjectSettings(**names)), ("interpret", InterpretSettings(**names))]
    if others:
        follow.append(("compare", CompareSettings(dataset=dataset.name, encoders=others, controls=False, project=True)))
    runs = []
    for name, wanted in follow:
        try:
            runs.append(runner.launch(name, wanted, workspace, background=True)[0])
        except Busy as error:  # somebody makes it with other settings
            progress.warn(str(error))
    return {**result, "images": sum(dataset.facts["counts"].values()), "differing_rows": differ, "runs": runs}


def start_demo(workspace: Workspace) -> str | None:
    """The run that prepares the demo, started or joined; None where its results are there already."""
    from sslviz.data import dataset as datasets
    from sslviz.jobs import runner
    from sslviz.jobs.inputs import result_state

    settings = DemoSettings()
    if settings.dataset in workspace.datasets() and settings.encoder in workspace.encoders():
        found = datasets.load(workspace, settings.dataset)
        if result_state(workspace, found, settings.encoder, "score")[0] == "fresh":
            return None
    return runner.launch("demo", settings, workspace)[0]
