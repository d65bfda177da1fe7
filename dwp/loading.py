"""Load a prior: a file, a prior of the collection by name, or a download.

The collection is in `dwp/collection`: the priors, an index with the checksum and origin of each, and a card
for each. `python -m dwp.pipeline.collection` writes it from the results of a run.
"""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwp.downloads import check_form, from_hub, from_url, hub_url
from dwp.errors import InputError, unknown
from dwp.files import sha256 as sha256_of

if TYPE_CHECKING:
    import torch

    from dwp.priors.base import Prior

COLLECTION = Path(__file__).parent / "collection"
INDEX = "index.json"


@dataclass(frozen=True)
class Card:
    """A prior of the collection.

    Attributes:
        name: for `load_prior`.
        kernel_size: k.
        kind: kind of prior, such as 'mixture'.
        source: name of the data that the source networks were trained on.
        kernels: number of kernels that the prior was fitted to.
        log_prob: mean log density of held-out kernels, in nats per kernel.
        standard_error: standard error of `log_prob`.
        facts: everything in the index: data and licence, networks, kernels, scores, few-shot results,
            versions, and the commands that make the prior.
    """

    name: str
    kernel_size: int
    kind: str
    source: str
    kernels: int
    log_prob: float
    standard_error: float
    facts: dict[str, Any]

    @property
    def text(self) -> str:
        """Return the card as Markdown."""
        return (COLLECTION / f"{self.name}.md").read_text(encoding="utf-8")


class Cards(tuple[Card, ...]):
    """The priors of the collection; prints as a table."""

    def __str__(self) -> str:
        rows = [("name", "kernels", "kind", "source data", "fitted to", "held-out log density")]
        for card in self:
            score = f"{card.log_prob:.2f} ± {card.standard_error:.2f} nats per kernel"
            size = f"{card.kernel_size}×{card.kernel_size}"
            rows.append((card.name, size, card.kind, card.source, f"{card.kernels} kernels", score))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    __repr__ = __str__


def list_priors() -> Cards:
    """Return the priors of the collection, which `load_prior` loads by name; they print as a table."""
    return Cards(
        Card(
            name=name,
            kernel_size=facts["kernel_size"],
            kind=facts["kind"],
            source=facts["data"]["name"],
            kernels=facts["kernels"]["train"],
            log_prob=facts["held_out"]["log_prob"],
            standard_error=facts["held_out"]["standard_error"],
            facts=facts,
        )
        for name, facts in _index(COLLECTION).items()
    )


def load_prior(
    source: str | Path, device: "str | torch.device" = "cpu", *, sha256: str | None = None
) -> "Prior":
    """Load a prior, with frozen parameters, from a safetensors file.

    Args:
        source: the path of a file; or, if there is no such file,

            - a name of the collection, such as 'glyphs-5x5', see `list_priors`,
            - 'hf:owner/name[/file.safetensors][@revision]', a file of a public repository on the Hugging
              Face hub, see `dwp.downloads.from_hub`,
            - an http(s) URL, with `sha256`.

            Downloads are kept in the folder `$DWP_CACHE`, by default `~/.cache/dwp`.
        device: device of the loaded prior, independent of the one that it was saved from.
        sha256: expected SHA-256 of the file, in hexadecimal.

    Raises:
        InputError: the file or name is unknown, the checksum is another, the download failed, or the file
            is not a prior, see `dwp.priors.base.load_prior`.
        StorageError: the cache cannot be written.
    """
    # Imported here, so that `list_priors` does not need PyTorch.
    from dwp.priors.base import load_prior

    path = locate(source, sha256)
    try:
        return load_prior(path, device)
    except InputError as error:
        # The name of a file in the cache says nothing to a user.
        raise InputError(str(error).replace(str(path), str(source))) from None


def locate(source: str | Path, sha256: str | None = None) -> Path:
    """Return the verified file of a prior, downloaded if necessary; see `load_prior`."""
    if sha256 is not None:
        check_form(sha256)
    if os.path.isfile(source):  # unlike Path.is_file, also takes what is too long for a path
        return _checked(Path(source), sha256)
    text = str(source)
    if text.startswith(("https://", "http://")):
        if sha256 is None:
            raise InputError(f"prior: {text} needs a checksum; give sha256=...")
        return from_url(text, sha256)
    if text.startswith("hf:"):
        if sha256 is not None:
            return from_url(hub_url(text)[0], sha256)
        return from_hub(text)
    index = _index(COLLECTION)
    if text in index:
        return _checked(_checked(COLLECTION / f"{text}.safetensors", index[text]["sha256"]), sha256)
    if isinstance(source, Path) or Path(text).name != text or Path(text).suffix:
        raise InputError(f"prior: there is no file {source}")
    raise unknown(f"prior: there is no file {text}; in the collection", text, index)


def _checked(path: Path, sha256: str | None) -> Path:
    if sha256 is not None and (found := sha256_of(path)) != sha256:
        raise InputError(f"prior: {path} has SHA-256 {found}, expected {sha256}; it is damaged or another")
    return path


@functools.cache
def _index(folder: Path) -> dict[str, dict]:
    return json.loads((folder / INDEX).read_text(encoding="utf-8"))
