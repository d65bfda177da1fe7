"""torchvision can be imported with any build of PyTorch."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """Run Python in a new process, with nothing imported yet; return its output."""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "before",
    ["", "import contextlib\nwith contextlib.suppress(RuntimeError): import torchvision"],
    ids=["first", "after an import that may have failed"],
)
def test_data_sets_are_imported(before):
    code = "from dwp.torchvision_import import torchvision_datasets\nprint(torchvision_datasets().MNIST)"
    assert "torchvision.datasets.mnist.MNIST" in run(f"{before}\n{code}")


def test_a_library_that_loads_brings_its_own_operators():
    assert run(
        "import torch\n"
        "from dwp.torchvision_import import _operators_exist\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "torch.ops.load_library = lambda path: library.define('nms(Tensor dets) -> Tensor')\n"
        "print(_operators_exist())"
    ).endswith("True\n")
