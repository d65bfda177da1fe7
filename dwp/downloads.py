"""Verified downloads of single files from a URL or from the Hugging Face hub, kept in a cache.

Files in the cache are named by their SHA-256, which is checked at every use.
"""

import contextlib
import hashlib
import http.client
import logging
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dwp.errors import InputError
from dwp.files import atomic_write, cache_folder
from dwp.files import sha256 as sha256_of

HUB = "https://huggingface.co"
# Time without data after which the connection counts as broken.
TIMEOUT_SECONDS = 30
# Header with the SHA-256 of a file in the hub's large-file storage, where safetensors files are.
STATED = "X-Linked-Etag"

_REFERENCE = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/([^@]+\.safetensors))?(?:@(.+))?")
_SHA256 = re.compile("[0-9a-f]{64}")
_COMMIT = re.compile("[0-9a-f]{40}")

logger = logging.getLogger(__name__)


class _Unreachable(InputError):
    """The server sent no complete answer, or reported an error of its own."""


def from_url(url: str, sha256: str) -> Path:
    """Return a local copy of a file with a known SHA-256, downloaded if the cache does not have it.

    Raises:
        InputError: the checksum is malformed or another, or the download failed.
        StorageError: the cache cannot be written.
    """
    check_form(sha256)
    if found := _cached(sha256):
        return found
    with _open(url) as (response, _):
        return _save(response, url, sha256)


def from_hub(reference: str) -> Path:
    """Return a local copy of a file on the Hugging Face hub, verified by the SHA-256 that the hub states.

    The file is downloaded if it is not in the cache. If the hub does not answer, the last copy of the same
    reference is returned, with a warning; of a commit it is returned without asking the hub.

    Args:
        reference: `hf:owner/name[/file.safetensors][@revision]` of a public repository; the file is
            `prior.safetensors` by default, the revision (a branch, tag or commit) `main`. The
            environment variable HF_ENDPOINT replaces https://huggingface.co.

    Raises:
        InputError: the reference is malformed, the download failed, or the hub states no checksum.
        StorageError: the cache cannot be written.
    """
    url, revision = hub_url(reference)
    # The checksum that the hub stated last.
    record = cache_folder() / "hub" / hashlib.sha256(url.encode()).hexdigest()
    known = _cached(record.read_text().strip()) if record.is_file() else None
    if known and _COMMIT.fullmatch(revision):
        return known
    try:
        with _open(url) as (response, stated):
            if not _SHA256.fullmatch(stated):
                raise InputError(f"prior: {url} comes without a SHA-256; give sha256=...")
            found = _cached(stated) or _save(response, url, stated)
    except _Unreachable as error:
        if known is None:
            raise
        logger.warning("%s; the copy in the cache is used", error)
        return known
    with atomic_write(record) as temporary:
        temporary.write_text(stated)
    return found


def hub_url(reference: str) -> tuple[str, str]:
    """Return the address and the revision of a reference, see `from_hub`.

    Raises:
        InputError: the reference is malformed.
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise InputError(f"prior: {reference!r}; expected hf:owner/name[/file.safetensors][@revision]")
    repository, file, revision = parts[1], parts[2] or "prior.safetensors", parts[3] or "main"
    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    return f"{endpoint}/{repository}/resolve/{quote(revision, safe='')}/{quote(file)}", revision


def check_form(sha256: str) -> None:
    """Raise InputError unless a checksum is 64 lower-case hexadecimal digits."""
    if not _SHA256.fullmatch(sha256):
        raise InputError(f"prior: sha256 is {sha256!r}; expected 64 lower-case hexadecimal digits")


def _cached(sha256: str) -> Path | None:
    """Return the file with a checksum in the cache; None if it is missing or damaged."""
    path = _path(sha256)
    return path if path.is_file() and sha256_of(path) == sha256 else None


def _path(sha256: str) -> Path:
    return cache_folder() / f"{sha256}.safetensors"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the checksum that the hub states in one of them."""

    stated = ""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self.stated = headers.get(STATED, self.stated)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _open(url: str) -> Iterator[tuple[http.client.HTTPResponse, str]]:
    """Yield the response of a URL, and the checksum that the hub states or ''."""
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
            stated = redirects.stated or response.headers.get(STATED, "")
            yield response, stated.removeprefix("W/").strip('"')
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"prior: {url} is no valid address ({error})") from None
    except urllib.error.HTTPError as error:
        hint = "; check the name, and that it is public" if error.code in (401, 403, 404) else ""
        kind = _Unreachable if error.code >= 500 else InputError
        raise kind(f"prior: {url}: HTTP {error.code} {error.reason}{hint}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        advice = "check the network, or download it elsewhere and give its path"
        raise _Unreachable(f"prior: {url} cannot be fetched ({reason}); {advice}") from None


def _save(response: http.client.HTTPResponse, url: str, sha256: str) -> Path:
    """Write the content of a response to the cache if it has the checksum."""
    path = _path(sha256)
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            shutil.copyfileobj(response, file)
        size = temporary.stat().st_size
        expected = int(response.headers.get("Content-Length") or size)
        if size < expected:
            raise http.client.IncompleteRead(b"", expected - size)
        if (found := sha256_of(temporary)) != sha256:
            raise InputError(f"prior: {url} has SHA-256 {found}, expected {sha256}; it is not kept")
    return path
