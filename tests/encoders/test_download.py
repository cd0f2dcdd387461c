"""Downloads against a server of our own on this machine."""

import hashlib
import http.server
import re
import threading
from dataclasses import replace

import pytest
import torch

from sslviz.encoders.download import download
from sslviz.errors import Cancelled, InputError, NotFound
from sslviz.progress import Progress

CONTENT = hashlib.shake_128(b"weights").digest(5_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /file; `cuts`: after how many bytes of an answer the connection breaks, answer by answer."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.cuts, self.ranges, self.understands_ranges = CONTENT, '"one"', [], [], True
        self.says = ""

    def handle_error(self, *_):  # we hang up on it
        pass

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        if self.path != "/file":
            self.send_error(404)
            return
        start, asked = 0, self.headers.get("Range")
        server.ranges.append(asked)
        if asked == f"bytes={len(server.content)}-":
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if asked and server.understands_ranges and self.headers.get("If-Range") == server.etag:
            start = 0 if server.says else int(re.fullmatch(r"bytes=(\d+)-", asked).group(1))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        most = server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[:most])
        if most < len(body):
            self.close_connection = True


@pytest.fixture
def server():
    with Server() as it:
        thread = threading.Thread(target=it.serve_forever, daemon=True)
        thread.start()
        yield it
        it.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("sslviz.encoders.download.time.sleep", lambda seconds: None)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_a_file_comes_whole_and_only_once(tmp_path, server):
    for _ in range(2):
        path = download(server.url, tmp_path / "a.pth", Progress())
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert sorted(f.name for f in tmp_path.iterdir() if not f.name.startswith(".")) == ["a.pth", "a.pth.json"]


def test_a_cut_is_gone_on_from(tmp_path, server):
    server.cuts = [2_000_000, 1_500_000]
    assert download(server.url, tmp_path / "a.pth", Progress()).read_bytes() == CONTENT
    starts = [int(asked[6:-1]) if asked else 0 for asked in server.ranges]
    assert starts[0] == 0
    assert 0 < starts[1] <= 2_000_000
    assert starts[1] < starts[2] <= 3_500_000


def test_a_later_call_goes_on_where_a_cancelled_one_stopped(tmp_path, server):
    class Stops(Progress):
        seen = 0

        def advance(self, done=1):
            self.seen += done
            if self.seen >= 2:
                raise Cancelled("stop")

    with pytest.raises(Cancelled):
        download(server.url, tmp_path / "a.pth", Stops())
    assert not (tmp_path / "a.pth").exists()
    assert download(server.url, tmp_path / "a.pth", Progress()).read_bytes() == CONTENT
    assert int(server.ranges[1][6:-1]) >= 1_000_000


@pytest.mark.parametrize("change", ["another file", "no ranges"])
def test_a_part_of_another_file_is_not_gone_on_with(tmp_path, server, change):
    server.cuts = [2_000_000, 0, 0, 0, 0]
    with pytest.raises(InputError, match=r"cut off after 2\.0 MB .* Try again: it goes on from there"):
        download(server.url, tmp_path / "a.pth", Progress())
    server.cuts = []
    if change == "another file":
        server.content, server.etag = CONTENT[::-1], '"two"'
    else:
        server.understands_ranges = False
    assert download(server.url, tmp_path / "a.pth", Progress()).read_bytes() == server.content


def test_a_part_that_was_whole_already_is_taken(tmp_path, server):
    """Killed after the last byte: the server has nothing more."""
    (tmp_path / "a.pth.part").write_bytes(CONTENT)
    (tmp_path / "a.pth.part.json").write_text('{"etag": "\\"one\\""}')
    assert download(server.url, tmp_path / "a.pth", Progress()).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_cancel_before_the_first_byte_of_another_file_mixes_nothing(tmp_path, server):
    server.cuts = [2_000_000, 0, 0, 0, 0]
    with pytest.raises(InputError, match="cut off"):
        download(server.url, tmp_path / "a.pth", Progress())
    server.cuts, server.content, server.etag = [], CONTENT[::-1], '"two"'

    class StopsAtOnce(Progress):
        def stage(self, name, total=0):
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        download(server.url, tmp_path / "a.pth", StopsAtOnce())
    assert download(server.url, tmp_path / "a.pth", Progress()).read_bytes() == server.content


def test_what_is_no_encoder_is_not_held_to(tmp_path, server, workspace, monkeypatch):
    """A login page at the first try: refused, and the next try asks again and takes the true file."""
    from sslviz.errors import SslvizError
    from sslviz.jobs import import_encoder as job
    from tests.inputs import small_encoder

    small_encoder(workspace, "made")
    true = (workspace.encoder("made") / "weights.safetensors").read_bytes()
    (_, checkpoint), *_ = (found for found in job.published() if found[1].name == "simsiam")
    monkeypatch.setattr(job, "published", lambda: [("simsiam", replace(checkpoint, url=server.url))])
    settings = job.ImportEncoderSettings(source="simsiam", name="taken")
    server.content = b"<html>please log in</html>" * 100
    with pytest.raises(SslvizError, match="HTML"):
        job.import_encoder(settings, workspace, Progress())
    server.content = true
    for mistake in ({"network": "nosuch"}, {"mean": "1 2"}):
        with pytest.raises(SslvizError):
            job.import_encoder(settings.model_copy(update=mistake), workspace, Progress())
    server.content = true + b" "  # whatever was mistyped, the first content is held to
    assert job.import_encoder(settings, workspace, Progress())["encoder"] == "taken"
    kept = next(path for path in workspace.root.rglob("simsiam*") if path.suffix not in (".json", ".part"))
    assert kept.read_bytes() == true
    kept.unlink()
    with pytest.raises(SslvizError, match="not the file it was at its first download"):
        job.import_encoder(settings.model_copy(update={"name": "again"}), workspace, Progress())


@pytest.mark.parametrize(("asked", "taken"), [("", (0.228, 0.224, 0.225)), ("0.5 0.5 0.5", (0.5, 0.5, 0.5))])
def test_by_name_an_encoder_gets_the_input_its_authors_state(tmp_path, server, workspace, monkeypatch, asked, taken):
    """SwAV's code divides by .228 where others' divide by .229; its published backbone says nothing of it."""
    from sslviz.encoders.spec import load_spec
    from sslviz.jobs import import_encoder as job
    from tests.inputs import SmallResNet

    torch.save(SmallResNet(8, 1).state_dict(), tmp_path / "file.pth")
    server.content = (tmp_path / "file.pth").read_bytes()
    (_, swav), *_ = (found for found in job.published() if found[1].name == "swav-2x224")
    monkeypatch.setattr(job, "published", lambda: [("swav", replace(swav, url=server.url))])
    job.import_encoder(job.ImportEncoderSettings(source="swav-2x224", name="it", std=asked), workspace, Progress())
    assert load_spec(workspace, "it").input.std == taken


def test_an_answer_with_another_part_than_asked_is_taken_for_the_whole(tmp_path, server):
    """A proxy that answers 206 with the file from its start."""
    server.cuts, server.says = [2_000_000], "bytes 0-"
    assert download(server.url, tmp_path / "a.pth", Progress()).read_bytes() == CONTENT


def test_another_content_than_the_first_time_is_refused(tmp_path, server):
    download(server.url, tmp_path / "a.pth", Progress()).unlink()
    server.content = CONTENT[:-1] + b"?"
    for _ in range(2):
        with pytest.raises(InputError, match=r"is not the file it was at its first download \(sha256 \w{12}…, then"):
            download(server.url, tmp_path / "a.pth", Progress())
        assert not (tmp_path / "a.pth").exists()


def test_a_file_changed_on_disk_is_refused(tmp_path, server):
    path = download(server.url, tmp_path / "a.pth", Progress())
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(InputError, match="is not the file it was"):
        download(server.url, path, Progress())


def test_not_there(tmp_path, server):
    with pytest.raises(NotFound, match=r"404.*sslviz encoders add NAME FILE"):
        download(server.url + "s", tmp_path / "a.pth", Progress())
    assert not list(tmp_path.glob("a.pth*"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/file", "http://no-such-host.invalid/file"])
def test_no_network_is_one_line(tmp_path, url):
    with pytest.raises(
        InputError, match=r"cannot be reached \(.*\)\. Is this machine online\? Behind a proxy: set HTTPS_PROXY"
    ) as e:
        download(url, tmp_path / "a.pth", Progress())
    assert "\n" not in str(e.value)


def test_a_proxy_is_asked(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(NotFound):  # our server gets the whole address as the path
        download("http://far.invalid/file", tmp_path / "a.pth", Progress())


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, server, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"needs 5 MB, more than is free"):
        download(server.url, tmp_path / "a.pth", Progress())
    assert not list(tmp_path.glob("a.pth.part"))


def test_no_published_name_looks_like_a_file():
    """`import_encoder` does not look for a file's name among them."""
    from sslviz.jobs.import_encoder import published

    assert [checkpoint.name for _, checkpoint in published() if "." in checkpoint.name or "/" in checkpoint.name] == []
