"""Who is let in, by the name that a browser asks for."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from sslviz.ui.server import TokenGate, _hosts


def status(address, host, origin=None):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent = []

    async def ask():
        async def send(message):
            sent.append(message)

        headers = [(b"host", host.encode()), (b"cookie", b"sslviz-8501=secret")]
        if origin is not None:
            headers.append((b"origin", origin.encode()))
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
        await TokenGate(app, "secret", _hosts(address), 8501)(scope, None, send)

    with ThreadPoolExecutor(1) as other:  # Playwright leaves a running loop in this thread
        other.submit(lambda: asyncio.run(ask())).result()
    return sent[0]["status"]


def test_a_token_in_the_address_becomes_a_cookie_that_scripts_and_other_sites_do_not_get():
    sent = []

    async def ask():
        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/scores", "headers": [(b"host", b"localhost:8501")]}
        scope["query_string"] = b"dataset=demo&token=secret"
        await TokenGate(None, "secret", _hosts("127.0.0.1"), 8501)(scope, None, send)

    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: asyncio.run(ask())).result()
    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], headers[b"location"]) == (303, b"/scores?dataset=demo")
    name, *flags = headers[b"set-cookie"].decode().split("; ")
    assert name == "sslviz-8501=secret"
    assert {"httponly", "samesite=lax", "path=/"} <= {flag.lower() for flag in flags}


@pytest.mark.parametrize(
    ("address", "host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:8501", 200),
        ("127.0.0.1", "localhost", 200),
        ("127.0.0.1", "evil.example:8501", 403),
        ("127.0.0.1", "", 403),
        ("::1", "[::1]:8501", 200),
        ("::1", "[::2]:8501", 403),
        ("::1", "[::1", 403),
        ("127.0.0.1", "evil@127.0.0.1:8501", 403),
        ("127.0.0.1", "127.0.0.1/evil", 403),
        ("Lab.Example", "lab.example:8501", 200),
        ("::", "[fe80::1]:8501", 200),
        ("0.0.0.0", "lab.example:8501", 200),
    ],
)
def test_hosts(address, host, expected):
    assert status(address, host) == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:8501", 200),
        ("http://127.0.0.1:9999", 403),  # another server of this machine: its pages are sent with our cookie too
        ("http://localhost:8501", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_of_other_servers_are_not_let_in(origin, expected):
    assert status("127.0.0.1", "127.0.0.1:8501", origin) == expected
