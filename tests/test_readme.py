"""The Python of README.md and of the pages in docs/ runs as it is printed."""

import pytest
import torch
from conftest import ROOT
from library_alone import blocks, run
from torch import nn

import dwp
from dwp.priors import base, settings
from dwp.priors.base import load_prior, save_prior
from dwp.torchvision_import import torchvision_datasets

torchvision_datasets()  # before a page imports timm

README, LIBRARY = ROOT / "README.md", ROOT / "docs" / "library.md"
OTHERS = sorted(page for page in (ROOT / "docs").rglob("*.md") if page != LIBRARY and blocks(page))


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    """Run the pages in a temporary folder; afterwards unregister the kind of prior that one registers."""
    monkeypatch.chdir(tmp_path)
    yield
    base._kinds.pop("laplace", None)
    settings._kinds.pop("laplace", None)


def test_the_number_of_blocks_on_each_page():
    assert [len(blocks(page)) for page in (README, LIBRARY)] == [2, 14]
    assert {page.stem: len(blocks(page)) for page in OTHERS} == {
        "any-network": 1,
        "compression": 2,
        "deep-weight-prior": 1,
        "elbo": 3,
        "frozen-features": 1,
        "hmc": 1,
        "priors": 2,
        "sparse-rnn": 1,
        "tuning": 1,
        "tutorial": 5,
        "versions": 1,
    }


@pytest.mark.parametrize("page", [README, LIBRARY], ids=lambda page: page.name)
def test_every_block_runs(page):
    names = run(page)
    loss, probabilities = names["loss"], names["probabilities"]
    assert loss.isfinite()
    loss.backward()
    assert probabilities.shape == (5, 10)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.stem)
def test_every_block_of_the_other_pages_runs(page):
    for name, value in run(page).items():
        if name in ("loss", "probabilities", "bound"):
            assert value.isfinite().all(), name


def test_three_lines_initialise_a_network_of_timm(capsys):
    page = ROOT / "docs" / "any-network.md"
    (block,) = blocks(page)
    assert len([line for line in block.splitlines() if line]) == 3
    run(page)
    assert "16 of 21 layers have a prior" in capsys.readouterr().out


def test_the_page_on_compression_runs():
    names = run(ROOT / "docs" / "compression.md")
    assert names["loss"].isfinite()
    assert names["logits"].shape == (8, 10)
    assert torch.equal(names["loaded"](names["images"]), names["small"](names["images"]))
    # All weights in float32 take 4 bytes each.
    weights = sum(parameter.numel() for parameter in names["small"].parameters())
    assert names["size"] < 2 * weights


def test_the_page_on_recurrent_networks_runs():
    names = run(ROOT / "docs" / "sparse-rnn.md")
    assert names["logits"].shape == (37, 27, 20)
    assert names["small"].shrink_report.compression >= 1


def test_the_prior_of_the_example_has_the_density_that_it_samples_from():
    prior = run(LIBRARY)["Laplace"](3, scale=0.5).double()
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


def test_the_prior_of_the_example_works_wherever_a_prior_does(tmp_path):
    prior = run(LIBRARY)["Laplace"](5, scale=0.5)
    save_prior(prior, tmp_path / "laplace-5x5.safetensors")
    loaded = load_prior(tmp_path / "laplace-5x5.safetensors")
    w = prior.sample(4)
    assert torch.equal(loaded.log_prob(w), prior.log_prob(w))
    assert loaded.kind == "laplace"
    model = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten(), nn.Linear(2, 2))
    assert dwp.init_(model, [loaded]).changed == ["0"]
    dwp.make_bayesian(model, {5: loaded})
    assert dwp.kl(model).isfinite()
