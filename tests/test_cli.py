"""The commands of `dwp` for priors and weights, and their grouping with those of the workflow."""

import json
import sys

import numpy as np
import pytest
import torch
from prior_helpers import seeded
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_extras import absent  # noqa: F401  # a fixture
from torch import nn

import dwp
from dwp.cli import WORKFLOW, main
from dwp.kernels.pictures import BORDER, PIXELS, grid
from dwp.priors.base import find


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with priors of 3×3 and 5×5 and a state dict."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    dwp.save_prior(find("vae")(3, hidden=4, latent=2), "vae.safetensors")
    dwp.save_prior(find("standard_normal")(5, scale=0.1), "normal.safetensors")
    save_file(weights(), "model.safetensors", {"format": "pt", "note": "mine"})
    return tmp_path


def weights():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 5), nn.ConvTranspose2d(6, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
    )
    state = model.state_dict() | {"2.weight_mask": torch.ones(6, 4, 3, 3), "table": torch.ones(2, 2, 3, 3)}
    return state | {"int.weight": torch.ones(2, 2, 3, 3, dtype=torch.int8), "head.weight": torch.ones(3, 3)}


def failure(capsys, *words):
    """Run a command that must fail; return its one line."""
    assert main([*map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dwp: ")
    assert error.count("\n") == 1
    return error


# info


def test_info_shows_what_a_prior_is(folder, capsys):
    assert main(["info", "vae.safetensors"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["kind"] == "vae"
    assert "3×3" in lines["kernel"]
    assert "latent 2" in lines["settings"]
    assert lines["log"] == "density  lower bound"
    assert lines["held"] == "out     -"
    assert main(["info", "normal.safetensors", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["settings"] == {"scale": 0.1}
    assert (facts["kernel_size"], facts["log_density"], facts["parameters"]) == (5, "exact", 0)


@pytest.mark.parametrize(("content", "message"), [(None, "there is no file"), (b"text", "cannot be read as")])
def test_files_that_are_no_priors_are_refused(folder, capsys, content, message):
    if content:
        (folder / "p.safetensors").write_bytes(content)
    for words in (
        ["info", "p.safetensors"],
        ["sample", "p.safetensors", "--out", "k.npy"],
        ["init", "model.safetensors", "--prior", "p.safetensors", "--out", "o.safetensors"],
    ):
        assert message in failure(capsys, *words)


def test_priors_are_loaded_by_load_prior_as_they_are_named(folder, monkeypatch, capsys):
    prior, named = dwp.load_prior("vae.safetensors"), []
    monkeypatch.setattr(dwp, "load_prior", lambda name: named.append(name) or prior, raising=False)
    assert main(["info", "some-name"]) == 0
    assert main(["sample", "some-name", "--out", "k.npy"]) == 0
    assert main(["init", "model.safetensors", "--prior", "some-name", "--out", "o.safetensors"]) == 0
    assert named == ["some-name"] * 3


def test_info_takes_a_name_of_the_collection(folder, capsys):
    assert main(["info", "notmnist-5x5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["kernel_size"]) == ("mixture", 5)
    assert facts["held_out"]["kernels"] > 0
    assert "the nearest is 'notmnist-5x5'" in failure(capsys, "info", "notmnist-5")


# sample


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_samples_are_those_of_the_seed(folder, suffix):
    out = folder / f"k{suffix}"
    assert main(["sample", "vae.safetensors", "-n", "7", "--out", str(out), "--seed", "3"]) == 0
    found = np.load(out) if suffix == ".npy" else load_file(out)["kernels"].numpy()
    assert np.array_equal(found, dwp.load_prior("vae.safetensors").sample(7, seeded(3)).numpy())
    # The file is one of kernels.
    assert dwp.collect(out, 3, threshold=0).shape == (7, 1, 3, 3) or suffix == ".safetensors"
    assert main(["sample", "vae.safetensors", "-n", "7", "--out", str(out), "--mean"]) == 0


def test_samples_as_a_picture(folder):
    image = pytest.importorskip("PIL.Image")
    assert main(["sample", "vae.safetensors", "-n", "5", "--out", "k.png"]) == 0
    kernels = dwp.load_prior("vae.safetensors").sample(5, seeded(0)).numpy()
    assert np.array_equal(np.asarray(image.open("k.png")), grid(kernels))


def test_the_picture_of_kernels():
    kernels = np.zeros((5, 1, 3, 3), np.float32)
    kernels[0, 0, 0, 0], kernels[4, 0, 2, 2] = -0.5, 0.25
    picture = grid(kernels)
    tile = 3 * PIXELS + BORDER
    assert picture.shape == (2 * tile + BORDER, 3 * tile + BORDER)
    assert picture[BORDER, BORDER] == 0
    assert picture[BORDER + tile - BORDER - 1, BORDER] == 128
    fourth = picture[BORDER + tile :, BORDER + tile :]
    assert fourth[3 * PIXELS - 1, 3 * PIXELS - 1] == 191
    assert (picture[-tile:, -tile:][:-BORDER] == 255).all()
    assert (picture[:BORDER] == 255).all()
    assert set(np.unique(grid(np.zeros((1, 1, 2, 2))))) == {128, 255}


def test_a_picture_without_pillow_is_refused_in_one_line(folder, absent, capsys):  # noqa: F811
    absent("PIL")
    error = failure(capsys, "sample", "vae.safetensors", "--out", "k.png")
    assert error == "dwp: --out k.png: it needs PIL; pip install 'dwp[workflow]'\n"


def test_what_cannot_be_sampled_is_refused(folder, capsys):
    dwp.save_prior(find("log_uniform")(3), "improper.safetensors")
    assert "use .png, .npy or .safetensors" in failure(capsys, "sample", "vae.safetensors", "--out", "k.jpg")
    assert "-n: 0 kernels" in failure(capsys, "sample", "vae.safetensors", "--out", "k.npy", "-n", 0)
    assert "cannot be sampled" in failure(capsys, "sample", "improper.safetensors", "--out", "k.npy")


# fit


def test_fit_writes_the_prior_of_the_library(folder, capsys):
    torch.manual_seed(0)
    save_file({"a.weight": torch.randn(40, 5, 3, 3), "b.weight": torch.randn(4, 5, 5, 5)}, "net.safetensors")
    words = ["fit", "net.safetensors", "--size", "3", "--out", "p.safetensors", "--device", "cpu"]
    words += ["--threshold", "0"]
    settings = ["--set", "latent=3", "--set", "hidden=4", "--set", "schedule.steps=2"]
    settings += ["--set", "code_prior=vamp", "--seed", "1", "--test-fraction", "0.5", "--most", "150"]
    assert main([*words, *settings]) == 0
    out = capsys.readouterr().out
    assert out.startswith("150 kernels of 3×3\n")
    assert "nats per kernel" in out
    kernels = dwp.collect("net.safetensors", 3, threshold=0, most=150, seed=1)
    expected = dwp.fit_prior(
        kernels, test_fraction=0.5, seed=1, latent=3, hidden=4, code_prior="vamp", schedule={"steps": 2}
    )
    dwp.save_prior(expected, "expected.safetensors")
    assert (folder / "p.safetensors").read_bytes() == (folder / "expected.safetensors").read_bytes()
    assert main([*words, "--kind", "gaussian"]) == 0
    assert dwp.load_prior("p.safetensors").kind == "gaussian"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no file nowhere"),
        (["k.npy", "--threshold", "mean"], "kernels.threshold: 'mean' is not known"),
        (["k.npy", "--kind", "vea"], "the nearest is 'vae'"),
        (["k.npy", "--set", "latents=3"], "'latents' is not known"),
        (["model.safetensors", "--set", "latent"], "--set: 'latent'; expected NAME=VALUE"),
        (["model.safetensors"], "int.weight has dtype torch.int8"),
        (["model.safetensors", "--device", "tpu"], "'tpu' is not known"),
    ],
)
def test_what_cannot_be_fitted_is_refused(folder, capsys, words, message):
    np.save("k.npy", np.random.default_rng(0).normal(size=(50, 3, 3)))
    capsys.readouterr()
    assert message in failure(capsys, "fit", *words, "--size", 3, "--out", "p.safetensors")
    assert not (folder / "p.safetensors").exists()


# init


def init(source, out, *words, prior=("vae.safetensors", "normal.safetensors")):
    return main(["init", source, "--prior", *prior, "--out", out, *words])


def test_init_draws_convolutions_and_copies_the_rest(folder, capsys):
    assert init("model.safetensors", "out.safetensors", "--as-drawn") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    before, after = load_file("model.safetensors"), load_file("out.safetensors")
    assert lines.keys() == before.keys() == after.keys()
    drawn = {"0.weight", "1.weight", "2.weight", "3.weight"}
    for name in before:
        assert torch.equal(before[name], after[name]) == (name not in drawn)
        kind = {"1.weight": "standard_normal"}.get(name, "vae")
        assert lines[name] == (f"drawn from {kind}" if name in drawn else "kept")
    generator = seeded(0)
    expected = dwp.load_prior("vae.safetensors").sample(4, generator).view(4, 1, 3, 3)
    assert torch.equal(after["0.weight"], expected)
    with safe_open("out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "mine"}


def test_init_scales_kernels_as_the_library_does(folder):
    assert init("model.safetensors", "drawn.safetensors", "--as-drawn") == 0
    assert init("model.safetensors", "out.safetensors") == 0
    drawn, after = load_file("drawn.safetensors"), load_file("out.safetensors")
    for name in ("0.weight", "1.weight"):
        factor = (2 / drawn[name][0].numel() / drawn[name].square().mean()).sqrt()
        torch.testing.assert_close(after[name], factor * drawn[name])


def test_init_gives_the_same_in_every_format_and_for_every_order(folder):
    state = weights()
    torch.save(dict(reversed(state.items())), "model.pt")
    torch.save({"epoch": 3, "state_dict": state}, "checkpoint.pth")
    assert init("model.safetensors", "a.safetensors", "--seed", "5") == 0
    assert init("model.pt", "b.pt", "--seed", "5") == 0
    assert init("checkpoint.pth", "c.pth", "--seed", "5") == 0
    assert init("model.pt", "d.safetensors", "--seed", "6") == 0
    a, b, c = load_file("a.safetensors"), torch.load("b.pt"), torch.load("c.pth")
    assert list(b) == list(reversed(state))
    assert c["epoch"] == 3
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name])
        assert torch.equal(tensor, c["state_dict"][name])
    assert not torch.equal(load_file("d.safetensors")["0.weight"], a["0.weight"])
    assert init("a.safetensors", "a.safetensors", "--seed", "6", "--mean") == 0


def test_init_keeps_dtypes_and_ties(folder):
    w = torch.randn(4, 2, 3, 3).bfloat16()
    torch.save({"a.weight": w, "b.weight": w}, "tied.pt")
    assert init("tied.pt", "out.pt", prior=["vae.safetensors"]) == 0
    state = torch.load("out.pt")
    assert state["a.weight"].dtype == torch.bfloat16
    assert state["a.weight"].data_ptr() == state["b.weight"].data_ptr()
    assert not torch.equal(state["a.weight"], w)


def test_what_cannot_be_initialised_is_refused(folder, capsys):
    def error(source="model.safetensors", out="out.safetensors", prior=("vae.safetensors",)):
        return failure(capsys, "init", source, "--prior", *prior, "--out", out)

    dwp.save_prior(find("standard_normal")(7), "seven.safetensors")
    w = torch.randn(4, 2, 3, 3)
    torch.save({"a.weight": w, "b.weight": w}, "tied.pt")
    torch.save([w], "list.pt")
    torch.save({"model": nn.Linear(1, 1)}, "module.pt")
    (folder / "bad.safetensors").write_bytes(b"text")
    assert "there is no file nowhere.pt" in error("nowhere.pt")
    assert "bad.safetensors cannot be read" in error("bad.safetensors")
    assert "list.pt is not a state dict of tensors" in error("list.pt")
    assert "module.pt is not a plain state dict" in error("module.pt")
    assert "suffix '.bin'" in error(out="o.bin")
    assert "two priors have the same kernel size" in error(prior=["vae.safetensors"] * 2)
    assert "no convolution of 7×7" in error(prior=["vae.safetensors", "seven.safetensors"])
    assert "cannot be written as safetensors" in error("tied.pt")
    assert not (folder / "out.safetensors").exists()


# Groups of commands


def test_help_lists_both_groups(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    first, second = out.index("priors and weights"), out.index("results of the workflow")
    assert first < out.index("  fit ") < second < out.index("  prune ")
    assert out.startswith("usage: dwp [-h] COMMAND ...\n")


@pytest.mark.parametrize("command", ["info", "sample", "fit", "init", *WORKFLOW])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: dwp {command}" in capsys.readouterr().out


def test_a_negative_seed_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample", "vae.safetensors", "--out", "k.npy", "--seed", "-1"])
    assert stop.value.code == 2
    assert "--seed: '-1'; expected a whole number from 0" in capsys.readouterr().err


def test_an_unknown_command_is_refused_with_all_that_are_known(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["smaple"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "'fit'" in error or "fit" in error
    assert "prune" in error


@pytest.mark.parametrize("command", WORKFLOW)
def test_commands_of_the_workflow_need_its_extra(command, absent, capsys, monkeypatch):  # noqa: F811
    absent("humanfriendly")
    for name in ("dwp.results.cli",):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("dwp.results.cli", raising=False)
    error = failure(capsys, command)
    assert error == f"dwp: dwp {command}: it needs humanfriendly; pip install 'dwp[workflow]'\n"


def test_commands_of_the_workflow_are_passed_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "there is no folder results in" in failure(capsys, "verify")
