"""The command line as people use it."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from sslviz.cli import app, main, terminal
from sslviz.jobs import JOBS
from tests.inputs import encoded, folder, picture, small_encoder

SSLVIZ = [sys.executable, "-c", "from sslviz.cli import main; main()"]


@pytest.fixture
def sslviz(workspace, tmp_path, monkeypatch, capsys):
    """Run the command in this process and an empty folder: (exit code, stdout, stderr). Its jobs are processes of their own."""
    monkeypatch.chdir(tmp_path)
    for console in (terminal.out, terminal.err):  # made when the module was imported, by whatever COLUMNS was then
        monkeypatch.setattr(console, "width", 200)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sslviz", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def process(workspace, tmp_path):
    """As `sslviz`, in a process of its own; never a traceback."""

    def run(*arguments):
        environment = {**os.environ, "COLUMNS": "200"}
        command = [*SSLVIZ, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False)
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def photos(tmp_path):
    layout = {f"{s}/{c}": n for s, n in (("train", 8), ("val", 4)) for c in ("disc", "ring")}
    return folder(tmp_path / "my photos", layout)


@pytest.fixture
def checkpoint(workspace, tmp_path):
    """A checkpoint file of the project's own, outside the workspace."""
    small_encoder(workspace)
    path = tmp_path / "own.safetensors"
    (workspace.encoder("tiny") / "weights.safetensors").rename(path)
    import shutil

    shutil.rmtree(workspace.encoder("tiny"))
    return path


def rows_of(out):
    """Cells of the tables in what was printed, by the first of each line; where that stands in two, those of the first table."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    return {line[0]: line[1:] for line in reversed(lines)}


def percents(*values):
    return [f"{100 * value:.1f}" for value in values]


def test_analyze_from_a_folder_and_a_file(process, photos, checkpoint, workspace):
    code, out, err = process("analyze", "--images", photos, "--encoder", checkpoint)
    assert code == 0, err
    assert "lowest Q-Scores of val:" in out
    assert "Q-Score as in the paper" in out
    assert len(re.findall(r"^  0\.\d{4}  val/", out, re.M)) == 8
    assert "small ResNet, width 8, 32 features" in err
    assert "/scores?dataset=my-photos&encoder=own" in out
    out_of_people = out
    code, out, _ = process("analyze", "--images", photos, "--encoder", checkpoint, "--json")
    result = json.loads(out)
    assert (code, result["embed"]["computed"], result["n"]) == (0, 0, 24)
    found = result["reports"]
    for title, name in (("L2 norm of the raw embedding", "norm"), ("Q-Score as in the paper", "q_paper")):
        auroc, span, auprc, base, _ = rows_of(out_of_people)[title]
        assert [auroc, auprc, base] == percents(*(found[name][k] for k in ("auroc", "auprc", "base_rate")))
        assert span.split(" – ") == percents(*found[name]["intervals"]["auroc"])
    assert workspace.datasets() == ["my-photos"]
    code, out, _ = process("runs", "list")
    assert out.count("my-photos by own  done") == 2


def test_each_step_alone_equals_analyze(sslviz, photos, checkpoint):
    assert sslviz("data", "add", "p", photos)[0] == 0
    code, out, _ = sslviz("encoders", "add", "e", checkpoint, "--json")
    assert (code, json.loads(out)["name"], json.loads(out)["feature_dim"]) == (0, "e", 32)
    target = ("--dataset", "p", "--encoder", "e")
    assert json.loads(sslviz("embed", *target, "--json")[1])["computed"] == 24
    top1 = json.loads(sslviz("probe", *target, "--json")[1])["top1"]
    scored = json.loads(sslviz("score", *target, "--json")[1])
    whole = json.loads(sslviz("analyze", "--images", "p", "--encoder", "e", "--json")[1])
    assert scored["reports"]["q"] == whole["reports"]["q"]
    assert scored["reports"]["q"]["base_rate"] == pytest.approx(top1)
    assert "p: 24 images, 2 classes" in sslviz("data", "list")[1]
    assert "tiny" not in sslviz("encoders", "list")[1]
    code, out, err = sslviz("data", "remove", "p")
    assert (code, out, "data set p is removed" in err) == (0, "", True)
    code, _, err = sslviz("score", *target)
    assert (code, "unknown data set" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "--dataset", "nothing", "--encoder", "x"], 'unknown data set "nothing"'),
        (["analyze", "--images", "./missing", "--encoder", "x"], "no folder"),
        (["encoders", "inspect", "page.pth"], "page.pth is an HTML page"),
        (["encoders", "--workspace", "elsewhere", "list"], "options follow the command: sslviz encoders list"),
        (["encoders", "--json", "list"], "options follow the command: sslviz encoders list"),
        (["encoders", "add", "x", "picture.pth"], "picture.pth is a picture"),
        (["encoders", "add", "../x", "picture.pth"], 'encoder name "../x" cannot be used'),
        (["data", "add", "x", "empty"], "no images found in"),
        (["score", "--dataset", "a", "--encoder", "b", "--eps", "most"], 'neither a number nor "auto"'),
        (["score", "--dataset", "a", "--encoder", "b", "--lower", "101"], "lower"),
        (["score", "--dataset", "a", "--encoder", "b", "--eps", "nan"], 'neither a number nor "auto"'),
        (["score", "--dataset", "a", "--encoder", "b", "--eps", "-1"], 'neither a number nor "auto"'),
        (["embed", "--dataset", "a", "--encoder", "b", "--batch-size", "0"], "batch-size"),
        (["encoders", "add", "x", "picture.pth", "--mean", "1,2"], "expected three numbers"),
        (["runs", "show", "x"], 'unknown run "x"'),
        (["embed", "--dataset", "a", "--encoder", "b", "--workspace", "/proc/sslviz"], "unknown data set"),
        (["data", "add", "x", ".", "--workspace", "/proc/sslviz"], "cannot be written"),
        (["import", "--file", "missing.npz", "--dataset", "a", "--encoder", "b"], "no file"),
        (["encoders", "add", "x", "timm:resnet_nothing"], "timm has no model"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(sslviz, tmp_path, workspace, arguments, words):
    (tmp_path / "page.pth").write_text("<html>404</html>")
    (tmp_path / "picture.pth").write_bytes(encoded(picture(1)))
    (tmp_path / "empty").mkdir()
    code, _, err = sslviz(*arguments)
    assert code == 2
    assert words in err
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith(("run ", "Usage", "Try"))]
    assert len(lines) <= 3, err  # typer frames its own in a box
    assert workspace.datasets() == []
    assert workspace.encoders() == []


def test_a_newer_workspace_exits_2(process, workspace):
    (workspace.root / "workspace.json").write_text('{"version": 99}')
    code, _, err = process("runs", "list")
    assert (code, "made by a newer sslviz" in err) == (2, True)
    assert len(err.splitlines()) == 1  # nor does importing say anything


def test_inspect_says_what_is_inside(sslviz, tmp_path):
    from torchvision.models import resnet18

    state = {"module.encoder_q." + k: v for k, v in resnet18().state_dict().items()}
    torch.save({"epoch": 200, "state_dict": state}, tmp_path / "moco.pth.tar")
    code, out, _ = sslviz("encoders", "inspect", "moco.pth.tar")
    assert code == 0
    for words in (
        "writer: MoCo",
        "epoch: 200",
        "network: state_dict.module.encoder_q: MoCo query encoder, ResNet-18, 7x7 stem; 120 tensors match; head fc\n",
        "note: ResNet-18, 7x7 stem, 512 features; took the MoCo query encoder at state_dict.module.encoder_q\n",
        "left out: state_dict.module.encoder_q.fc 2",
        "features: 512",
    ):
        assert words in out
    assert json.loads(sslviz("encoders", "inspect", "moco.pth.tar", "--json")[1])["taken"] == "state_dict.module.encoder_q"


def test_a_cluster_shell_counts_for_no_command(sslviz, monkeypatch):
    """Three tasks of salloc -n 3 are not those of the run that starts in its shell."""
    monkeypatch.setenv("SLURM_NTASKS", "3")
    monkeypatch.setenv("RANK", "1")
    assert sslviz("runs", "list")[0] == 0
    assert not {"SLURM_NTASKS", "RANK"} & set(os.environ)


def test_a_data_set_by_name_is_a_run(sslviz, workspace, tmp_path):
    import datasets as hugging

    (tmp_path / "hub").mkdir()
    features = hugging.Features({"image": hugging.Image(), "label": hugging.ClassLabel(names=["a", "b"])})
    png = tmp_path / "one.png"
    picture(0, 8, 8, 0).save(png)
    rows = {"image": [{"bytes": png.read_bytes(), "path": None}] * 10, "label": [0, 1] * 5}
    hugging.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "hub" / "all.parquet")
    code, out, err = sslviz("data", "add", "mine", f"hf:{tmp_path / 'hub'}", "--json")
    assert code == 0
    assert "data set mine: 10 train; 2 classes." in err
    assert json.loads(out)["counts"] == {"train": 10}
    assert workspace.datasets() == ["mine"]
    code, _, err = sslviz("data", "add", "other", "torchvision:MNIST", "--json")
    assert code == 2
    assert 'unknown torchvision data set "MNIST"' in err
    code, _, err = sslviz("data", "add", "other", "torchvision:CIFAR10", "--classes", "x.txt")
    assert (code, "--classes picks among a folder's class folders" in err) == (2, True)


def test_inspecting_a_file_without_an_encoder_is_two(sslviz, checkpoint, tmp_path):
    code, out, _ = sslviz("encoders", "inspect", checkpoint)
    assert (code, "small ResNet, width 8, 32 features" in out) == (0, True)
    from torchvision.models import resnet18

    state = {k: v for k, v in resnet18().state_dict().items() if not k.startswith("layer4")}
    torch.save(state, tmp_path / "cut.pth")
    for more in ((), ("--json",)):
        code, out, err = sslviz("encoders", "inspect", tmp_path / "cut.pth", *more)
        assert code == 2
        assert "layer4.* missing" in err
    code, out, _ = sslviz("encoders", "inspect", "timm:resnet10t")
    assert code == 0
    assert "feature dim: 512" in out
    assert "timm:resnet10t: resnet10t, 512 features" in out
    code, _, err = sslviz("encoders", "inspect", "timm:resnet10q")
    assert (code, 'timm has no model "resnet10q"' in err) == (2, True)


def test_every_command_has_help_with_its_example():
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    for name in JOBS:
        if name in ("import_encoder", "import_data"):  # the hand-written `encoders add` and `data add`, with arguments
            continue
        command = "import" if name == "import_arrays" else name
        done = runner.invoke(app, [command, "--help"])
        assert done.exit_code == 0
        assert JOBS[name].example in " ".join(done.stdout.split())
        for field in JOBS[name].settings.model_fields:
            flag = "images" if (name, field) == ("analyze", "dataset") else field
            assert "--" + flag.replace("_", "-") in done.stdout


def test_two_embeds_at_once_equal_one(sslviz, photos, checkpoint, workspace, tmp_path):
    sslviz("data", "add", "p", photos)
    sslviz("encoders", "add", "e", checkpoint)
    arguments = [*SSLVIZ, "embed", "--dataset", "p", "--encoder", "e", "--chunk-rows", "7", "--json"]
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [json.loads(process.communicate(timeout=200)[0]) for process in both]
    assert [p.returncode for p in both] == [0, 0]
    assert {r["n"] for r in results} == {24}
    assert len({r["fingerprint"] for r in results}) == 1


def test_the_commands_of_runs_are_commands():
    """What the runs page shows: flags that the command line knows."""
    from typer.testing import CliRunner

    from sslviz.cli import app
    from sslviz.jobs import JOBS
    from sslviz.ui.runs import _command

    shown = {}
    for job in JOBS.names():
        needed = {name: "x" for name, field in JOBS[job].settings.model_fields.items() if field.is_required()}
        needed |= {name: ["x"] for name in ("encoders",) if name in needed}
        if command := _command({"job": job, "settings": needed}):
            shown[job] = [word for word in command.split() if word.startswith("--")]
    assert {"embed", "score", "finetune", "pretrain", "compare"} <= set(shown)
    assert not {"import_encoder", "import_data", "import_arrays", "analyze"} & set(shown)
    for job, flags in shown.items():
        said = CliRunner().invoke(app, [job, "--help"], env={"COLUMNS": "200"}).output
        assert [flag for flag in flags if flag not in said] == []


def test_interrupted_commands_cancel_their_run(workspace, photos, tmp_path):
    import signal
    import time

    arguments = (
        "pretrain --dataset p --name own --epochs 5000 --batch-size 16 --width 8 --feature-dim 16 --size 16 --precision 32-true"
    )
    subprocess.run([*SSLVIZ, "data", "add", "p", str(photos)], check=True, capture_output=True)
    process = subprocess.Popen([*SSLVIZ, *arguments.split()], stderr=subprocess.PIPE, text=True)
    from sslviz.jobs.runner import list_runs

    end = time.monotonic() + 90
    while time.monotonic() < end and not any(run["done"] > 2 for run in list_runs(workspace)):
        time.sleep(0.1)
    joined = subprocess.Popen([*SSLVIZ, *arguments.split()], stderr=subprocess.PIPE, text=True)
    assert "joined" in joined.stderr.readline()
    joined.send_signal(signal.SIGTERM)
    assert joined.wait(60) == 130
    assert "goes on; it was started elsewhere" in joined.stderr.read()
    assert [run["status"] for run in list_runs(workspace)] == ["running"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert [run["status"] for run in list_runs(workspace)] == ["cancelled"]


def test_compare_prints_a_line_for_each_encoder(sslviz, photos, checkpoint):
    sslviz("data", "add", "p", photos)
    sslviz("encoders", "add", "e", checkpoint)
    code, out, err = sslviz("compare", "--dataset", "p", "--encoders", "e")
    assert code == 0, err
    assert "judged on val" in out
    for name in ("│ e ", "│ random-weights-", "│ raw-pixels"):
        assert name in out
    rows = json.loads(sslviz("compare", "--dataset", "p", "--json")[1])["rows"]
    printed = rows_of(out)
    for row in rows:
        top1, eps, empty, _, q, best, probe = printed[row["encoder"]]
        aurocs = {name: report["auroc"] for name, report in row["reports"].items()}
        assert [top1, q, probe] == percents(row["top1"], aurocs["q"], aurocs["msp"])
        assert (eps, empty) == (f"{row['eps']:g}", f"{100 * row['empty_share']:.1f} %")
        assert best.split() == [row["best_rival"], *percents(aurocs[row["best_rival"]])]
    assert [r["method"] for r in rows if r["encoder"] == "raw-pixels"] == ["raw pixels"]
    assert all(set(r["reports"]["q"]["intervals"]) >= {"auroc", "auprc"} for r in rows)


def test_what_a_run_needs_is_said_once(workspace, monkeypatch, capsys):
    from sslviz.cli.following import follow
    from sslviz.jobs import runner

    state = {"stage": "training", "done": 1, "total": 4, "warnings": [], "error": "", "exit_code": None, "result": {"n": 1}}
    states = [{**state, "status": status, "facts": {"plan": "240 steps"}} for status in ("running", "running", "done")]
    monkeypatch.setattr(runner, "read_run", lambda *_: states.pop(0))
    assert follow(lambda: ("r", True), workspace) == {"n": 1}
    assert capsys.readouterr().err.count("note: 240 steps") == 1
