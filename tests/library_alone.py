"""Run the README's examples of the library with the core alone: python library_alone.py README.md.

It imports only the package and its dependencies, so that it runs in any folder, in an environment
with the wheel and those alone.
"""

import importlib
import os
import pkgutil
import re
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import dwp
from dwp.cli import main as command
from dwp.priors.base import find, save_prior

ROOMS = ("nn", "priors", "bayes", "training", "compression")
MODULES = ("initialisation", "metrics", "fitting", "loading", "downloads", "state_dicts", "cli")
MODULES += tuple(
    f"kernels.{name}" for name in ("collection", "files", "onnx_files", "pictures", "pruning", "readers")
)


def blocks(readme: Path) -> list[str]:
    """Return the blocks of Python in a README."""
    text = readme.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(readme: Path) -> dict:
    """Run every block in turn in the current folder; return the resulting namespace."""
    torch.manual_seed(0)
    for name in ("vae-7x7", "vae-5x5"):
        file = Path(f"results/latest/priors/{name}/{name}.safetensors")
        file.parent.mkdir(parents=True)
        save_prior(find("vae")(int(name[-1]), latent=2, hidden=4), file)
    Path("checkpoints").mkdir()
    save_file({"conv.weight": torch.randn(20, 10, 5, 5)}, "checkpoints/net.safetensors")
    names = {
        "model": nn.Sequential(
            nn.Conv2d(1, 3, 7), nn.ReLU(), nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4 * 6 * 6, 10)
        ),
        "x": torch.randn(8, 1, 16, 16),
        "y": torch.arange(8),
        "images": torch.randn(5, 1, 16, 16),
        "n_examples": 8,
        "batches": [(torch.randn(8, 1, 16, 16), torch.arange(8))] * 2,
    }
    for number, block in enumerate(blocks(readme)):
        exec(compile(block, f"{readme}, Python block {number + 1}", "exec"), names)
    return names


def main(readme: Path) -> None:
    """Run the README, train a step of its model, and import every module of the core."""
    names = run(readme)
    model, before = names["model"], names["probabilities"]
    optimizer = torch.optim.Adam(model.parameters())
    names["loss"].backward()
    optimizer.step()
    after = dwp.predict(model, names["images"], samples=10).mean(0)
    assert after.isfinite().all()
    assert not torch.equal(after, before)
    for card in dwp.list_priors():
        assert dwp.load_prior(card.name).sample(2).shape == (2, 1, card.kernel_size, card.kernel_size)
    prior, net = "results/latest/priors/vae-5x5/vae-5x5.safetensors", "checkpoints/net.safetensors"
    for words in (
        ["info", prior],
        ["info", "notmnist-5x5"],
        ["sample", prior, "--out", "kernels.npy"],
        ["init", net, "--prior", prior, "--out", "initialised.safetensors"],
        ["fit", "checkpoints", "--size", "5", "--kind", "gaussian", "--out", "gaussian.safetensors"],
    ):
        assert command(words) == 0, words
    for room in ROOMS:
        package = importlib.import_module(f"dwp.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"dwp.{room}."):
            importlib.import_module(module.name)
    for module_name in MODULES:
        importlib.import_module(f"dwp.{module_name}")
    print(f"the library alone: {len(blocks(readme))} blocks of {readme.name} run by {dwp.__file__}")


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        main(path)
