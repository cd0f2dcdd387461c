"""Downloads that go on after a cut, and whose digest is remembered from the first time on."""

import shutil
import time
from pathlib import Path

import requests

from sslviz.errors import InputError, NotFound
from sslviz.progress import Progress
from sslviz.store.files import only_writer, read_json, write_json
from sslviz.store.fingerprints import file_digest

_PIECE = 1 << 16
_TRIES = 5
_ELSEWHERE = "With the file from elsewhere: sslviz encoders add NAME FILE"
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces


def download(url: str, path: Path, progress: Progress) -> Path:
    """Fetch `url` into `path`, or keep it where it is there already; returns the path.

    What a cut left behind (path.part) is gone on with. `path`.json keeps the digest of the first download; a file that differs
    from it is refused, ever after. Proxies are taken from HTTPS_PROXY. Raises NotFound (404), InputError: no network, cut off
    again and again, disk full, other content than the first time.
    """
    with only_writer(path, path.name):
        record = path.with_name(path.name + ".json")
        if not path.exists():
            part = path.with_name(path.name + ".part")
            _fetch(url, part, progress)
            _check(part, record, url)
            part.rename(path)
            part.with_name(part.name + ".json").unlink(missing_ok=True)
        else:
            _check(path, record, url)
    return path


def forget(path: Path) -> None:
    """Remove a downloaded file that is no encoder, and what was to hold it to its first content."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".json").unlink(missing_ok=True)


def _check(path: Path, record: Path, url: str) -> None:
    digest = file_digest(path)
    known = read_json(record)["sha256"] if record.exists() else None
    if known is None:
        write_json(record, {"url": url, "sha256": digest, "size": path.stat().st_size})
    elif digest != known:
        path.unlink()
        raise InputError(
            f"{url} is not the file it was at its first download (sha256 {digest[:12]}…, then {known[:12]}…) and was not "
            f"kept. If its authors say that they changed it, remove {record} and try again."
        )


def _fetch(url: str, part: Path, progress: Progress) -> None:
    begun = False
    for attempt in range(1, _TRIES + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            _go_on(url, part, progress)
            return
        except requests.RequestException as error:
            reason = _reason(error)
        here = part.stat().st_size if part.exists() else 0
        begun = begun or here > before
        if not begun and here == 0:
            raise InputError(
                f"{url} cannot be reached ({reason}). Is this machine online? Behind a proxy: set HTTPS_PROXY. {_ELSEWHERE}"
            ) from None
        if here == before and attempt > 1:
            break
        time.sleep(0.2 * attempt)
    raise InputError(f"the download of {url} was cut off after {here / 1e6:.1f} MB ({reason}). Try again: it goes on from there.")


def _go_on(url: str, part: Path, progress: Progress) -> None:
    facts = part.with_name(part.name + ".json")
    have = part.stat().st_size if part.exists() else 0
    tag = read_json(facts).get("etag") if have and facts.exists() else None
    headers = {"Accept-Encoding": "identity"}
    if have and tag:  # without a tag nobody could say that it is still the same file
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == 416:
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # it was whole already
            part.unlink()
            raise requests.ConnectionError("the server has less of the file than was there before")
        if answer.status_code == 404:
            raise NotFound(
                f"{url} is not there (404): withdrawn or moved. With the file from elsewhere: sslviz encoders add NAME FILE"
            )
        if answer.status_code >= 400:
            raise InputError(f"{url} is refused ({answer.status_code} {answer.reason}). Try later, or get the file by hand.")
        goes_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        if total and shutil.disk_usage(part.parent).free < total - have:
            raise InputError(
                f"{url} needs {(total - have) / 1e6:,.0f} MB, more than is free at {part.parent}. Make room and try again."
            )
        if not goes_on:  # before its tag is written: a part of another file must not get it
            part.unlink(missing_ok=True)
        write_json(facts, {"etag": answer.headers.get("ETag")})
        progress.stage("downloading, MB", max(1, total // 1_000_000))
        began, shown, first = time.monotonic(), 0, have
        with part.open("ab" if goes_on else "wb") as out:
            for piece in answer.iter_content(_PIECE):
                out.write(piece)
                have += len(piece)
                if have // 1_000_000 > shown:
                    progress.advance(have // 1_000_000 - shown)
                    shown = have // 1_000_000
                    progress.note(mb_per_second=(have - first) / 1e6 / max(1e-9, time.monotonic() - began))


def _reason(error: requests.RequestException) -> str:
    """The innermost cause, in a few words."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text[:120]
