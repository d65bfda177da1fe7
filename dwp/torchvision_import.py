"""Import of torchvision, including with a PyTorch that it was not built for."""

import contextlib
import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

# PyTorch removes declarations when their `Library` object is deleted.
_declarations: list["Library"] = []


@functools.cache
def torchvision_datasets() -> ModuleType:
    """Return the module `torchvision.datasets`.

    The default build of torchvision is for CUDA. With a CPU-only PyTorch its compiled library does
    not load, and the import fails because two operators are missing that data sets never use.
    Declaring them before the import is enough.
    """
    if not _operators_exist():
        _declarations.append(_declare_operators())
    return importlib.import_module("torchvision.datasets")


def _operators_exist() -> bool:
    """Load torchvision's compiled library if possible; return whether its operators are registered."""
    import torch

    # Operators that were declared before the library loads would clash with its own.
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
