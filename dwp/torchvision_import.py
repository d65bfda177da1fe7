"""Import torchvision, also beside a PyTorch that it was not built for."""

import contextlib
import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

# A `Library` object keeps its declarations alive only as long as it lives itself.
_declarations: list["Library"] = []


@functools.cache
def torchvision_datasets() -> ModuleType:
    """Return the module `torchvision.datasets`.

    torchvision from PyPI is built for CUDA. Beside a CPU-only PyTorch its compiled library does
    not load, and its import then fails for want of two operators that data sets never use.
    Declaring them before the import is enough.
    """
    if not _operators_exist():
        _declarations.append(_declare_operators())
    return importlib.import_module("torchvision.datasets")


def _operators_exist() -> bool:
    """Return whether the operators are there, after loading torchvision's library where it loads."""
    import torch

    # Declared first, they would clash with those of a library that does load.
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or []:
        for library in Path(folder).glob("_C.*"):
            with contextlib.suppress(OSError):
                torch.ops.load_library(library)
    return hasattr(torch.ops.torchvision, "nms")


def _declare_operators() -> "Library":
    from torch.library import Library

    library = Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
