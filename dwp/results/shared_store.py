"""Shared stores: a folder, a bucket or a server with results of several people.

A store is any place that fsspec names. It has the folders of `results/`: `<store>/<stage>/<version>/<file>`.
Nothing in it is overwritten.
"""

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dwp.errors import InputError
from dwp.files import ADVICE, atomic_write, copy, sha256
from dwp.pipeline import paths
from dwp.pipeline.manifest import read_manifest
from dwp.pipeline.paths import RESULTS

LARGEST_MANIFEST = 1 << 26
DEEPEST = 100
CHUNK = 1 << 20


class Store:
    """A shared store.

    Args:
        address: a folder, or `protocol://…` as fsspec understands it.

    Raises:
        InputError: the protocol is unknown, or a package that it needs is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = re.sub(r"(://[^/@]*?):[^/]*@", r"\1:…@", address).rstrip(
            "/"
        )  # no passwords in messages
        if "::" in address:
            raise InputError(f"{self.address!r} is a chain of file systems; a store is a single one")
        try:
            self._files, root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            package = getattr(error.__cause__ or error, "name", None) or "a package"
            raise InputError(f"{self.address}: it needs {package}; pip install {package}") from error
        except Exception as error:
            raise InputError(f"{self.address!r} cannot be used as a store: {error}") from error
        self._root = root.rstrip("/")
        self._is_local = isinstance(self._files, LocalFileSystem)
        # Others move by copying; there a file appears when it is complete, as on S3.
        self._can_move = type(self._files).mv is not fsspec.AbstractFileSystem.mv
        self._files.invalidate_cache()

    def refuse_absent(self) -> None:
        """Raise InputError if the folder of the store does not exist.

        Object stores have no folders; a missing bucket is reported by the first write.
        """
        with self._refusals():
            absent = self._can_move and not self._files.isdir(self._root or "/")
        if absent:
            raise InputError(f"{self.address}: there is no such folder; make it, then push")

    def manifest(self, manifest: Path) -> tuple[bytes, dict] | None:
        """Return the text and content of a manifest in the store; None if there is none.

        Raises:
            InputError: it is malformed, belongs to another folder, or lists files that are not its job's.
        """
        name = name_of(manifest)
        if self._info(name) is None:
            return None
        with self._refusals(name), self._files.open(self._path(name), "rb") as file:
            text = file.read(LARGEST_MANIFEST + 1)
        if len(text) > LARGEST_MANIFEST:
            raise InputError(f"{self.address}/{name} is too large for a manifest")
        with tempfile.TemporaryDirectory() as folder:
            copied = Path(folder, manifest.name)
            copied.write_bytes(text)
            try:
                content = read_manifest(copied)
                if _is_deep(content):
                    raise InputError(f"{copied} is no manifest: it is nested too deeply")
                _refuse_foreign(content, manifest, str(copied))
            except (InputError, RecursionError) as error:
                message = str(error).replace(str(copied), f"{self.address}/{name}")
                raise InputError(message) from None
        return text, content

    def find(self, name: str) -> list[Path]:
        """Return the manifests of a version in the store, as paths under `results/`.

        Args:
            name: a version or its unique beginning, or `<stage>/<version>`.

        Raises:
            InputError: no version matches, or more than one.
        """
        parts = re.fullmatch(r"(?:(\w+)/)?([0-9a-f]+)", name)
        if parts is None:
            raise InputError(f"{name!r} is no version; expected 1a2b3c4d or stage/1a2b3c4d")
        stages = [parts[1]] if parts[1] else [one for one in self._names("") if re.fullmatch(r"\w+", one)]
        form = re.compile(paths.FIELDS["version"])
        found = [
            f"{stage}/{version}"
            for stage in stages
            for version in self._names(stage)
            if form.fullmatch(version) and version.startswith(paths.short(parts[2]))
        ]
        if len(found) != 1:
            what = f"is not unique: {', '.join(found)}" if found else f"is no version in {self.address}"
            raise InputError(f"{name!r} {what}")
        names = self._names(found[0])
        manifests = [one for one in names if one.endswith(paths.MANIFEST) and not one.startswith(".")]
        return [RESULTS / found[0] / one for one in manifests if one.isprintable()]

    def get(self, file: Path, digest: str) -> None:
        """Copy a file from the store to its place under `results/`.

        Raises:
            InputError: it is missing or has another SHA-256; StorageError: the disk is full.
        """
        name = name_of(file)
        if self._info(name) is None:
            raise InputError(f"{self.address}/{name} is missing, but its manifest is there")
        with atomic_write(file) as temporary:
            with self._refusals(name):
                self._files.get_file(self._path(name), str(temporary))
            if (found := sha256(temporary)) != digest:
                raise InputError(
                    f"{self.address}/{name} has SHA-256 {found[:8]}…, its manifest says {digest[:8]}…; "
                    "it was damaged and is not kept"
                )

    def put(self, file: Path, digest: str) -> None:
        """Copy a file under `results/` to the store, if it is not there yet.

        Raises:
            InputError: the store has another file of this name, or cannot be written.
        """
        name = name_of(file)
        if self._info(name) is not None:
            if self._sha256(name) == digest:
                return
            raise InputError(
                f"{self.address}/{name} is there, with other bytes and without a manifest; "
                "delete it, or push to another store"
            )
        path = self._path(name)
        folder, _, last = path.rpartition("/")
        with self._refusals(name):
            if self._is_local:
                copy(file, path)
            elif not self._can_move:
                self._files.put_file(str(file), path)
            else:
                self._files.makedirs(folder, exist_ok=True)
                temporary = f"{folder}/.{last}-{secrets.token_hex(4)}"
                try:
                    self._files.put_file(str(file), temporary)
                    self._files.mv(temporary, path)
                except BaseException:
                    with contextlib.suppress(Exception):
                        self._files.rm_file(temporary)
                    raise

    def _info(self, name: str) -> dict[str, Any] | None:
        """Return fsspec's description of a file, or None if there is none."""
        with self._refusals(name):
            try:
                info = self._files.info(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                return None
        if info["type"] != "file":
            raise InputError(f"{self.address}/{name} is no file")
        return info

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self._refusals(name), self._files.open(self._path(name), "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def _names(self, folder: str) -> list[str]:
        with self._refusals(folder):
            try:
                found = self._files.ls(self._path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(PurePosixPath(path.rstrip("/")).name for path in found)

    def _path(self, name: str) -> str:
        path = f"{self._root}/{name}" if name else self._root
        if self._is_local:
            root = os.path.realpath(self._root or "/")
            if os.path.commonpath([root, os.path.realpath(path)]) != root:
                raise InputError(f"{self.address}/{name} is a link that leaves the store")
        return path

    @contextlib.contextmanager
    def _refusals(self, name: str = "") -> Iterator[None]:
        """Turn errors of the file system, which are those of many libraries, into an InputError."""
        where = f"{self.address}/{name}" if name else self.address
        try:
            yield
        except InputError:
            raise
        except PermissionError:
            raise InputError(f"{where}: no permission; check the credentials and the rights") from None
        except FileNotFoundError:
            raise InputError(f"{where}: there is no such bucket or folder") from None
        except NotImplementedError:
            raise InputError(f"{where}: this file system cannot do that") from None
        except OSError as error:
            reason, advice = error.strerror or error, ADVICE.get(error.errno or 0)
            raise InputError(f"{where}: {reason}" + (f"; {advice}" if advice else "")) from None
        except Exception as error:
            raise InputError(f"{where}: {type(error).__name__}: {error}") from error


def name_of(path: Path) -> str:
    """Return the name in a store of a file under `results/`."""
    return path.relative_to(RESULTS).as_posix()


def _refuse_foreign(content: Mapping, manifest: Path, where: str) -> None:
    """Refuse a manifest that is not of its folder, or that lists what its job does not make."""
    found = f"{content['stage']}/{paths.short(content['version'])}"
    if found != paths.label(manifest):
        raise InputError(f"{where} is of {found}, not of {paths.label(manifest)}")
    for name in content["files"]:
        file = manifest.parent / name
        of_job = manifest.name == paths.MANIFEST or paths.manifest(file) == manifest
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        if not of_job or hidden or paths.is_byproduct(file) or name.endswith(paths.MANIFEST):
            raise InputError(f"{where} lists {name!r}, which is no file of its job")


def _is_deep(value: object, most: int = DEEPEST) -> bool:
    """Return whether mappings and lists are nested more deeply than any that a job writes."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most == 0 or any(_is_deep(one, most - 1) for one in inner)
