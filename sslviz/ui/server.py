"""The app's server: Streamlit behind a token made at each start, with thumbnails by id, on this machine's own address."""

import hmac
import importlib
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from sslviz.errors import InputError
from sslviz.store.files import is_held, read_json, write_json
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

FIRST_PORT = 8501


def running_url(workspace: Workspace) -> str | None:
    """Address of the app that serves this workspace now, without its token; None where none does."""
    lock = workspace.root / ".app.lock"
    if not lock.exists() or not is_held(lock):
        return None
    return str(read_json(workspace.root / "app.json")["url"])


def serve_app(workspace: Workspace, port: int | None, address: str) -> None:
    """Serve until Ctrl-C. Raises InputError when a port that was asked for is taken."""
    import fcntl

    os.environ["SSLVIZ_WORKSPACE"] = str(workspace.root)
    sock = _listen(address, port)
    port = int(sock.getsockname()[1])
    token = secrets.token_urlsafe(16)
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
    with (workspace.root / ".app.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_json(workspace.root / "app.json", {"url": url, "pid": os.getpid()})
        except BlockingIOError:
            pass  # a second server on the same workspace: fine, the first one's address is printed by commands
        _run(workspace, sock, address, port, token, url)


def _listen(address: str, port: int | None) -> socket.socket:
    """A socket bound to the port asked for, or to the first free one from 8501."""
    for candidate in [port] if port else [*range(FIRST_PORT, FIRST_PORT + 100), 0]:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, candidate))
            sock.listen(1)
            return sock
        except OSError as error:
            sock.close()
            if port:
                raise InputError(
                    f"port {port} on {address} cannot be used ({error.strerror}). Leave --port out to take a free one."
                ) from None
    raise InputError(f"no free port on {address}.")


def app_script() -> Path:
    """app.py: beside the package in a checkout, inside it when installed from a wheel."""
    import sslviz

    package = Path(sslviz.__file__).parent
    inside = package / "_app" / "app.py"
    return inside if inside.exists() else package.parent / "app.py"


def _run(workspace: Workspace, sock: socket.socket, address: str, port: int, token: str, url: str) -> None:
    import streamlit as st
    import uvicorn
    from starlette.middleware import Middleware
    from starlette.routing import Route
    from streamlit import config
    from streamlit.web import bootstrap

    script = app_script()
    options = {
        "server.port": port,
        "server.address": address,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": False,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "type",
        "client.showErrorLinks": False,
        "logger.hideWelcomeMessage": True,
        "server.allowedHosts": _hosts(address),
        # a config.toml of the current folder is not obeyed in what opens the server
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "server.baseUrlPath": "",
    }
    config._main_script_path = str(script)
    bootstrap.load_config_options(options)
    app = st.App(
        script,
        routes=[
            Route("/api/heat/{dataset}/{encoder}/{row:int}", _heat),
            Route("/api/{kind}/{dataset}/{row:int}", _image),
            Route("/overview", _overview),
        ],
        middleware=[Middleware(TokenGate, token=token, hosts=_hosts(address), port=port)],
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                print(f"sslviz is at {url}/?token={token}", flush=True)
                print("Ctrl-C stops the app; running jobs continue.", flush=True)
                threading.Thread(target=_warm_up, daemon=True).start()

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, ws="websockets-sansio", ws_max_size=200 << 20, timeout_graceful_shutdown=2
    )
    try:
        Server(settings).run(sockets=[sock])
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)


def _warm_up() -> None:
    """Import what pages need, seconds' worth, while the user still copies the address."""
    for name in ("torchvision.io", "scipy.stats", "sslviz.jobs.project", "sslviz.ui.figures.projection", "sslviz.ui.live"):
        importlib.import_module(name)
    from sslviz.jobs.import_encoder import published

    published()


def _hosts(address: str) -> list[str]:
    return (
        ["127.0.0.1", "localhost"]
        if address == "127.0.0.1"
        else [address.lower(), "127.0.0.1", "localhost"]
        if address not in ("0.0.0.0", "::")
        else ["*"]
    )


def _name_of(host: str) -> str | None:
    """The name in a Host header, without port and brackets; None where there is none."""
    try:
        found = urlsplit(f"//{host}")
        return found.hostname if found.netloc == host and found.username is None else None
    except ValueError:
        return None


def _is_from(origin: str | None, host: str) -> bool:
    """Whether a request comes from a page of this very server: a browser sends the cookie from pages of other ports too."""
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


class TokenGate:
    """Lets in whoever has the cookie; `?token=` becomes the cookie. Covers pages, pictures and websockets alike."""

    def __init__(self, app: Any, token: str, hosts: list[str], port: int) -> None:
        self.app, self.token, self.hosts = app, token, hosts
        self.cookie = f"sslviz-{port}"  # browsers share cookies between the ports of a host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import HTTPConnection
        from starlette.responses import PlainTextResponse, RedirectResponse
        from starlette.websockets import WebSocketDisconnected

        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        host = connection.headers.get("host", "")
        known_host = ("*" in self.hosts or _name_of(host) in self.hosts) and _is_from(connection.headers.get("origin"), host)
        if scope["type"] == "http" and known_host:
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            given = next((v for k, v in query if k == "token"), None)
            if given is not None and self._is_token(given):
                rest = urlencode([(k, v) for k, v in query if k != "token"])
                response = RedirectResponse("/" + scope["path"].lstrip("/\\") + (f"?{rest}" if rest else ""), 303)
                response.set_cookie(self.cookie, self.token, httponly=True, samesite="lax", path="/")
                response.headers["Cache-Control"] = "no-store"
                await response(scope, receive, send)
                return
        if known_host and self._is_token(connection.cookies.get(self.cookie, "")):
            with suppress(WebSocketDisconnected):  # Streamlit 1.67 closes a connection that the browser has closed already
                await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("Open the address that sslviz app printed in its terminal.", 403)(scope, receive, send)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())


async def _overview(request: "Request") -> "Response":
    """Streamlit serves its default page at / only; its name works too."""
    from starlette.responses import RedirectResponse

    return RedirectResponse(f"/?{request.url.query}", 307)


async def _image(request: "Request") -> "Response":
    """A sample's thumbnail (`thumb`) or its upright picture (`image`), by data set and row of its sample table."""
    from starlette.responses import Response

    from sslviz.ui.pictures import picture_file, thumb_file

    make = {"thumb": thumb_file, "image": picture_file}.get(request.path_params["kind"])
    if make is None:
        return Response(status_code=404)
    name, row = request.path_params["dataset"], request.path_params["row"]
    return await _picture(request, name, lambda: make(name, row))


async def _heat(request: "Request") -> "Response":
    """A sample under its stored heatmap, by data set, encoder and row; `strip` and `beside` as `heat_file` has them."""
    from sslviz.ui.overlays import heat_file

    name, encoder, row = (request.path_params[k] for k in ("dataset", "encoder", "row"))
    strip, beside = (request.query_params.get(k, "") for k in ("strip", "beside"))
    return await _picture(request, name, lambda: (heat_file(name, encoder, row, bool(strip), beside), "image/jpeg"))


async def _picture(request: "Request", name: str, make: Callable[[], tuple[bytes, str]]) -> "Response":
    """What `make` gives, as long as the data set is the one that was asked for."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response

    from sslviz.errors import EXPECTED
    from sslviz.ui.pictures import fingerprint_of

    try:
        of = request.query_params.get("of")
        if of is not None and of != await run_in_threadpool(fingerprint_of, name):
            return Response(status_code=404)  # the data set has changed: its rows are others now
        content, kind = await run_in_threadpool(make)
    except EXPECTED:
        return Response(status_code=404)
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type=kind, headers=headers)
