"""Data sets by name: images, held as whole tensors, with few-shot splits of them, and text.

`build` returns a `Dataset`; `identity` returns everything that determines it, without building it. Names
that need PyTorch are imported on first use, so that a workflow can be parsed without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dwp.data.catalogue import NAMES, build, identity, image_shape, is_text, train_size

if TYPE_CHECKING:
    from dwp.data.dataset import Dataset, load, save
    from dwp.data.splits import few_shot

__all__ = [
    "NAMES",
    "Dataset",
    "build",
    "few_shot",
    "identity",
    "image_shape",
    "is_text",
    "load",
    "save",
    "train_size",
]

_LAZY = {"Dataset": "dataset", "load": "dataset", "save": "dataset", "few_shot": "splits"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
