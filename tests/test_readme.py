"""The Python of README.md and docs/library.md runs as it is printed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

import dwp
from dwp.priors import base
from dwp.priors.base import find, load_prior, save_prior

PAGES = ("README.md", "docs/library.md")


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def priors(tmp_path, monkeypatch) -> Iterator[None]:
    """Save priors where the pages expect the workflow's; forget the kind that docs/library.md registers."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name in ("vae-7x7", "vae-5x5"):
        file = Path(f"results/latest/priors/{name}/{name}.safetensors")
        file.parent.mkdir(parents=True)
        save_prior(find("vae")(int(name[-1]), latent=2, hidden=4), file)
    yield
    base._kinds.pop("laplace", None)


def read(page: str) -> dict:
    """Run the blocks of a page in order; return the names that they leave behind."""
    names = {
        "model": nn.Sequential(
            nn.Conv2d(1, 3, 7), nn.ReLU(), nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4 * 6 * 6, 10)
        ),
        "x": torch.randn(8, 1, 16, 16),
        "y": torch.arange(8),
        "images": torch.randn(5, 1, 16, 16),
        "n_examples": 8,
    }
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page}, Python block {number + 1}", "exec"), names)
    return names


def test_the_number_of_blocks_on_each_page():
    assert [len(blocks(page)) for page in PAGES] == [2, 9]


@pytest.mark.usefixtures("priors")
@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(page):
    names = read(page)
    loss, probabilities = names["loss"], names["probabilities"]
    assert loss.isfinite()
    loss.backward()
    assert probabilities.shape == (5, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5, dtype=torch.float64))


@pytest.mark.usefixtures("priors")
def test_the_example_of_a_prior_has_the_density_that_it_samples_from():
    prior = read("docs/library.md")["Laplace"](3, scale=0.5).double()
    w = prior.sample(20_000, torch.Generator().manual_seed(0)).double()
    assert w.shape == (20_000, 1, 3, 3)
    torch.testing.assert_close(
        prior.log_prob(w), -(w.abs() / 0.5).sum((1, 2, 3)) - 9 * torch.tensor(1.0).double().log()
    )
    # |w| / scale is exponential: mean and deviation 1, of 180,000 draws; four standard errors.
    assert (w.abs() / 0.5).mean().item() == pytest.approx(1, abs=4 / 180_000**0.5)
    assert w.mean().item() == pytest.approx(0, abs=4 * 0.5 * (2 / 180_000) ** 0.5)
    assert torch.equal(
        prior.sample(2, torch.Generator().manual_seed(7)).double(),
        prior.sample(2, torch.Generator().manual_seed(7)).double(),
    )


@pytest.mark.usefixtures("priors")
def test_the_example_of_a_prior_works_wherever_a_prior_does(tmp_path):
    prior = read("docs/library.md")["Laplace"](5, scale=0.5)
    save_prior(prior, tmp_path / "laplace-5x5.safetensors")
    loaded = load_prior(tmp_path / "laplace-5x5.safetensors")
    w = prior.sample(4)
    assert torch.equal(loaded.log_prob(w), prior.log_prob(w))
    assert loaded.kind == "laplace"
    model = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten(), nn.Linear(2, 2))
    assert dwp.init_(model, [loaded]) == ["0"]
    dwp.make_bayesian(model, {5: loaded})
    assert dwp.kl(model).isfinite()
