"""`hf:` names against a hub of our own on this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file, save
from torchvision.models import resnet18

from sslviz.store.workspace import Workspace
from tests.inputs import small_encoder

COMMIT = "0" * 40


def resnet():
    torch.manual_seed(3)
    net = resnet18()
    net.fc = torch.nn.Identity()
    return net.state_dict()


def timm_repository():
    import timm

    torch.manual_seed(4)
    net = timm.create_model("test_resnet", num_classes=10)
    config = {"architecture": "test_resnet", "num_classes": 10, "pretrained_cfg": {**net.pretrained_cfg, "num_classes": 10}}
    return {"config.json": json.dumps(config, default=str).encode(), "model.safetensors": save(net.state_dict())}


REPOSITORIES = {
    "me/one": {"README.md": b"#", "resnet.safetensors": save(resnet())},
    "me/two": {"a.pth": b"1", "b.ckpt": b"2"},
    "me/timm": timm_repository(),
}


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        if path.startswith("api/models/"):
            repo = path.removeprefix("api/models/")
            if repo in REPOSITORIES:
                body = json.dumps({"id": repo, "siblings": [{"rfilename": name} for name in REPOSITORIES[repo]]}).encode()
                return self.answer(200, body, {"Content-Type": "application/json"})
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        repo, _, name = path.partition("/resolve/")
        name = name.partition("/")[2]
        if name in REPOSITORIES.get(repo, {}):
            body = REPOSITORIES[repo][name]
            tag = f'"{hashlib.sha1(body).hexdigest()}"'
            return self.answer(200, body, {"ETag": tag, "X-Repo-Commit": COMMIT})
        return self.answer(404, b"", {"X-Error-Code": "EntryNotFound" if repo in REPOSITORIES else "RepoNotFound"})

    def answer(self, status, body, headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(workspace, home, hub, *questions):
    """[exit code, answer] to each question ("add" or "inspect", source, name of the new encoder), stderr. In a process of its
    own: the hub's address is read once, at import."""
    code = (
        "import json, sys\nfrom sslviz.encoders.add import add_encoder, inspect_source\nfrom sslviz.errors import InputError\n"
        "from sslviz.store.workspace import Workspace\n"
        "workspace = Workspace(sys.argv[1])\n"
        "for what, source, name in json.loads(sys.argv[2]):\n"
        "    try:\n"
        "        added = what == 'add' and add_encoder(workspace, source, name)[0].model_dump(mode='json')\n"
        "        print(json.dumps([0, added or inspect_source(source)]))\n"
        "    except InputError as error:\n        print(json.dumps([error.exit_code, str(error)]))\n"
    )
    keep = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env = {**keep, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, str(workspace.root), json.dumps(questions)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


MISSING = {
    "hf:me/two": "holds 2 checkpoint files: a.pth, b.ckpt. Say which: hf:me/two/FILE",
    "hf:me/nobody": "the Hugging Face hub has no me/nobody",
    "hf:me/one/none.pth": "the Hugging Face hub has no me/one/none.pth",
    "hf:a b": "expected OWNER/REPO",
}


@pytest.fixture(scope="module")
def asked(hub, tmp_path_factory):
    """The workspace, and the answers to all questions that the hub is asked here."""
    root = tmp_path_factory.mktemp("hub")
    workspace = Workspace(root / "workspace").create()
    small_encoder(workspace, "small")
    questions = [
        ("inspect", "hf:me/one", ""),
        ("inspect", "hf:me/timm", ""),
        ("add", "hf:me/one", "x"),
        ("add", "hf:me/timm", "timms"),
        ("add", "hf:me/one", "timms"),
        ("add", "hf:me/timm", "small"),
        *(("add", source, "none") for source in MISSING),
    ]
    answers, _ = ask(workspace, root / "hf", hub, *questions)
    return workspace, dict(zip(questions, answers, strict=True))


def test_a_checkpoint_of_a_repository_goes_through_the_doctor(asked):
    workspace, answers = asked
    code, spec = answers["add", "hf:me/one", "x"]
    assert (code, spec["architecture"]["layers"]) == (0, [2, 2, 2, 2])
    stored = load_file(workspace.encoder("x") / "weights.safetensors")
    assert all(torch.equal(stored[k], v) for k, v in resnet().items())


def test_a_timm_repository_is_timms(asked):
    _, answers = asked
    code, spec = answers["add", "hf:me/timm", "timms"]
    assert code == 0
    assert (spec["backbone"], spec["architecture"], spec["source"]) == ("timm", {"model": "test_resnet"}, "hf:me/timm")


@pytest.mark.parametrize(("source", "name", "by"), [("hf:me/one", "timms", "hf:me/timm"), ("hf:me/timm", "small", "test")])
def test_a_name_that_is_taken_is_refused(asked, source, name, by):
    code, refused = asked[1]["add", source, name]
    assert (code, f'encoder "{name}" is already there, from {by}' in refused) == (2, True), refused


def test_a_repository_is_inspected_without_being_added(asked):
    workspace, answers = asked
    _, one = answers["inspect", "hf:me/one", ""]
    assert (one["features"], one["taken"], one["refusal"]) == (512, "(top level)", "")
    _, timms = answers["inspect", "hf:me/timm", ""]
    assert timms["architecture"] == {"model": "test_resnet"}
    assert timms["source"] == "hf:me/timm"
    assert workspace.encoders() == ["small", "timms", "x"]


@pytest.mark.parametrize(("source", "words"), MISSING.items())
def test_what_is_not_there_is_one_line(asked, source, words):
    code, said = asked[1]["add", source, "none"]
    assert (code, words in said, "\n" in said) == (2, True, False), said


def test_no_hub_is_one_line(workspace, tmp_path):
    ((code, out),), err = ask(workspace, tmp_path / "hf", "http://127.0.0.1:9", ("add", "hf:me/one", "x"))
    assert (code, "Retrying" in err) == (2, False), err
    assert "hf:me/one could not be downloaded (" in out
    assert "Is this machine online?" in out


def test_a_timm_model_has_as_many_features_as_it_gives(workspace, monkeypatch):
    """Its num_features is 288 here, the width before its last layer."""
    import timm

    from sslviz.encoders.add import add_encoder
    from sslviz.encoders.run import load_encoder
    from sslviz.errors import InputError

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, num_classes: create(name, num_classes=num_classes))
    spec, remarks = add_encoder(workspace, "timm:mobilenetv3_small_050", "small")
    assert spec.feature_dim == 1024
    assert "bicubic" in " ".join(remarks)
    assert load_encoder(workspace, "small").embed(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)).shape == (2, 1024)
    with pytest.raises(InputError, match="timm:test_vit takes no pictures of 100 px"):
        add_encoder(workspace, "timm:test_vit", size=100)
    assert "test-vit" not in workspace.encoders()


def test_a_timm_models_input_is_settable(workspace, monkeypatch):
    import timm

    from sslviz.encoders.add import add_encoder
    from sslviz.errors import InputError

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, num_classes: create(name, num_classes=num_classes))
    plain, _ = add_encoder(workspace, "timm:test_resnet", "plain")
    raw, _ = add_encoder(workspace, "timm:test_resnet", "raw", mean="0 0 0", std="1,1,1", size=96)
    assert plain.input.mean == pytest.approx((0.485, 0.456, 0.406), abs=0.1)
    assert (raw.input.mean, raw.input.std, raw.input.size) == ((0, 0, 0), (1, 1, 1), 96)
    assert raw.input.resize / raw.input.size == pytest.approx(plain.input.resize / plain.input.size, abs=0.02)
    for given, words in (
        ({"std": "0 1 1"}, r"std: input should be greater than 0"),
        ({"mean": "nan 0 0"}, "expected three numbers"),
        ({"network": "teacher", "stem_padding": 2}, "leave --network and --stem-padding out"),
    ):
        with pytest.raises(InputError, match=words):
            add_encoder(workspace, "timm:test_resnet", "other", **given)
    assert workspace.encoders() == ["plain", "raw"]
