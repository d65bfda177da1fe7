"""Export of a version with its provenance as a Process Run Crate, a profile of RO-Crate.

https://www.researchobject.org/workflow-run-crate/profiles/process_run_crate
"""

import base64
import contextlib
import datetime
import hashlib
import importlib.metadata
import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dwp.errors import InputError, extra
from dwp.files import sha256
from dwp.pipeline import paths
from dwp.pipeline.manifest import mapping
from dwp.results.artifact_store import Version, refuse_damaged
from dwp.results.model_card import model_card

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
URL = "https://arxiv.org/abs/1810.06943"
DEPTH = 20  # of nested parameters that become entities of their own
TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".html": "text/html",
    ".h5": "application/x-hdf5",
}


def export(
    version: Version, found: Iterable[Version], folder: Path, *, author: str | None, licence: str | None
) -> int:
    """Write the files of a version and the chain of jobs that led to them; return the number of jobs.

    Files that these jobs have read, or that earlier jobs have made, are named by their SHA-256 (RFC 6920)
    and not copied.

    Args:
        version: the version.
        found: all versions here, among which those that it was made from are looked up.
        folder: the new folder of the crate.
        author: name of the person who ran the jobs.
        licence: licence of the files, a name or a URL.

    Raises:
        InputError: the folder exists, a file is missing or damaged, or there is no finished job.
    """
    if folder.exists():
        raise InputError(f"--crate: {folder} exists; name a new folder")
    with extra("crate", "dwp export --crate"):
        from rocrate.model import ContextEntity
        from rocrate.rocrate import ROCrate
    manifests = {
        path: content for one in found for path, content in one.manifests.items() if content is not None
    }
    own = [path for path in version.manifests if path in manifests]
    if not own:
        raise InputError(f"{version.label} has no finished job; there is nothing to export")
    for file, digest in version.recorded_files:
        refuse_damaged(file, digest)
    crate = ROCrate(version="1.1")  # that of the profile
    crate.metadata.extra_terms["sha256"] = "https://w3id.org/ro/terms/workflow-run#sha256"
    crate.name = f"{version.label}: {', '.join(version.names) or version.stage}"
    crate.description = f"Results of the stage {version.stage} of dwp, with the jobs that led to them"
    crate.license = licence or "not stated"
    if licence and "://" in licence:
        crate.license = crate.add(ContextEntity(crate, licence, properties={"@type": "CreativeWork"}))
        crate.license["name"] = licence
    if version.finished:
        crate.datePublished = version.finished
    writer = _Writer(crate, version, author)
    todo, jobs = list(own), []
    while todo:
        path = todo.pop(0)
        if path in jobs:
            continue
        jobs.append(path)
        todo += [
            maker
            for file, digest in manifests[path].get("read", {}).items()
            if (maker := _maker(file)) in manifests
            and manifests[maker]["files"].get(Path(file).name) == digest
        ]
    for path in reversed(jobs):
        writer.add_job(path, manifests[path])
    if version.stage == "priors":
        card = model_card(own[0], [(path, manifests[path]) for path in reversed(jobs)], licence)
        facts = {"name": "model card", "encodingFormat": "text/markdown"}
        crate.add_file(io.StringIO(card), "README.md", properties=facts)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        crate.write(Path(temporary, "crate"))
        Path(temporary, "crate").rename(folder)
    return len(jobs)


def _maker(file: str) -> Path | None:
    """Return the manifest of the job that makes a file; None for a file that no job makes."""
    try:
        paths.label(file)
    except ValueError:
        return None
    return paths.manifest(file)


class _Writer:
    def __init__(self, crate: Any, version: Version, author: str | None) -> None:
        self.crate, self.version = crate, version
        self.author = None
        profile = self._entity(PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
        crate.root_dataset["conformsTo"] = profile
        if author:
            self.author = self._entity(f"#{author.replace(' ', '-')}", "Person", name=author)
            crate.root_dataset["author"] = self.author

    def add_job(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Add a job as an action, with its software, parameters, and the files that it read and made."""
        end = datetime.datetime.fromisoformat(manifest["finished"])
        label = paths.short(f"{manifest['stage']}/{manifest['version']}")
        params = [
            self._entity(f"#{label}/{key}", "PropertyValue", name=key, value=value)
            for key, value in _flat(manifest["params"])
        ]
        made = [self._file(path.parent / name, digest) for name, digest in manifest["files"].items()]
        read = [self._file(Path(name), digest) for name, digest in manifest.get("read", {}).items()]
        if path in self.version.manifests:
            made.append(self._file(path, sha256(path)))
        action = self._entity(
            f"#{label}/{path.name}",
            "CreateAction",
            name=f"{manifest['stage']}: {paths.stem(path) or label}",
            description=f"code digest {manifest['code']}, version {manifest['version']}",
            instrument=self._software(manifest),
            object=[*read, *params],
            result=made[0] if len(made) == 1 else made,
            endTime=end.isoformat("T", "seconds"),
            actionStatus="http://schema.org/CompletedActionStatus",
        )
        # Whatever a manifest from elsewhere has there.
        with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
            action["startTime"] = (end - datetime.timedelta(seconds=manifest["seconds"])).isoformat(
                "T", "seconds"
            )
        if self.author:
            action["agent"] = self.author
        self.crate.root_dataset.append_to("mentions", action)

    def _software(self, manifest: Mapping[str, Any]) -> Any:
        commit = str(mapping(manifest, "git").get("commit") or "unknown")
        libraries = {"Python": manifest.get("python"), **mapping(manifest, "libraries")}
        libraries = {name: str(number) for name, number in libraries.items() if number}
        required = [
            self._entity(
                f"#{name}-{number}", "SoftwareApplication", name=name, softwareVersion=number, url=_home(name)
            )
            for name, number in libraries.items()
        ]
        key = hashlib.sha256(repr(sorted(libraries.items())).encode()).hexdigest()[:8]
        return self._entity(
            f"#dwp-{commit[:12]}-{key}",
            "SoftwareApplication",
            name="dwp",
            description=f"The Deep Weight Prior, git commit {commit}",
            softwareVersion=commit,
            url=URL,
            softwareRequirements=required,
        )

    def _file(self, file: Path, digest: str) -> Any:
        facts = {
            "name": file.name,
            "sha256": digest,
            "encodingFormat": TYPES.get(file.suffix, "application/octet-stream"),
        }
        if file.is_relative_to(self.version.folder):
            name = file.relative_to(self.version.folder).as_posix()
            facts["contentSize"] = str(file.stat().st_size)
            return self.crate.get(name) or self.crate.add_file(file, name, properties=facts)
        name = base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")
        facts["name"] = file.as_posix()
        return self._entity(f"ni:///sha-256;{name}", "CreativeWork", **facts)  # a File would be in the crate

    def _entity(self, identity: str, kind: str, /, **facts: Any) -> Any:
        from rocrate.model import ContextEntity

        found = self.crate.get(identity)
        if found is None:
            found = self.crate.add(ContextEntity(self.crate, identity, properties={"@type": kind}))
            for key, value in facts.items():
                if value is not None:
                    found[key] = value
        return found


def _home(library: str) -> str | None:
    """Return the home page of a library, if it is installed and states one."""
    if library == "Python":
        return "https://www.python.org"
    try:
        stated = importlib.metadata.metadata(library)
    except importlib.metadata.PackageNotFoundError:
        return None
    pages = [*(stated.get_all("Home-page") or []), *(stated.get_all("Project-URL") or [])]
    return next((page.rpartition(", ")[2] for page in pages if "://" in page), None)


def _flat(value: Any, path: str = "", depth: int = DEPTH) -> list[tuple[str, Any]]:
    """Return the leaves of nested mappings and lists with their dotted paths."""
    if isinstance(value, Mapping | list) and value and depth:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        return [leaf for key, inner in pairs for leaf in _flat(inner, f"{path}.{key}".lstrip("."), depth - 1)]
    return [(path, value if isinstance(value, str | int | float) else repr(value))]
