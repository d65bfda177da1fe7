"""Import torchvision, also beside a PyTorch that it was not built for."""

import functools
import importlib
import sys
from types import ModuleType


@functools.cache
def torchvision_datasets() -> ModuleType:
    """Return the module `torchvision.datasets`.

    torchvision from PyPI is built for CUDA; beside a CPU-only PyTorch its
    compiled part does not load, and the import fails for want of two operators
    that data sets never use.  Declaring them is enough.  They are declared
    only after that failure: where the compiled part loads, it brings its own.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # a half-imported package would be reused
    _declare_operators()
    return importlib.import_module("torchvision.datasets")


def _declare_operators() -> None:
    import torch

    # The library object keeps the declarations alive, so it must stay alive itself.
    global _library
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
