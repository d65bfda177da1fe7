"""The core without the packages of the extras: a one-line error names the extra to install."""

import importlib
import subprocess
import sys

import h5py
import pytest
import torch
from torch import nn

from dwp import data
from dwp.bayes import last_layer_laplace
from dwp.errors import InputError, extra
from dwp.kernels.readers import read
from dwp.priors.base import find, load_prior, save_prior
from dwp.training.loop import Schedule, fit


@pytest.fixture
def absent(monkeypatch):
    """Return a function that makes a package look as if it were not installed."""

    def remove(name: str) -> None:
        for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, name, None)

    return remove


def test_the_error_names_the_package_and_the_extra():
    line = r"^kernels: it needs nowhere; pip install 'dwp\[workflow\]'$"
    with pytest.raises(InputError, match=line), extra("workflow", "kernels"):
        importlib.import_module("nowhere.at_all")


def test_a_flow_is_refused_in_one_line(absent, tmp_path):
    file = tmp_path / "flow-3x3.safetensors"
    save_prior(find("flow")(3, transforms=2, hidden=4), file)
    absent("zuko")
    line = r"flow: it needs zuko; pip install 'dwp\[flow\]'$"
    with pytest.raises(InputError, match=f"^{line}"):
        find("flow")(3)
    with pytest.raises(InputError, match=f"^prior: {file} cannot be loaded as a flow: {line}"):
        load_prior(file)


def test_of_student_t_only_the_fit_needs_scipy(absent, tmp_path):
    absent("scipy")
    file = tmp_path / "student_t-3x3.safetensors"
    save_prior(find("student_t")(3), file)
    prior = load_prior(file)
    w = prior.sample(4, torch.Generator().manual_seed(0))
    assert prior.log_prob(w).isfinite().all()
    with pytest.raises(
        InputError, match=r"^fit of student_t: it needs scipy; pip install 'dwp\[workflow\]'$"
    ):
        find("student_t").fit(w, w, {}, seed=0)


def test_of_files_of_kernels_only_hdf5_needs_h5py(absent, tmp_path):
    with h5py.File(tmp_path / "kernels.h5", "w") as file:
        file["kernels"] = torch.zeros(2, 3, 3)
    absent("h5py")
    with pytest.raises(InputError, match=r"kernels.h5: it needs h5py; pip install 'dwp\[workflow\]'$"):
        list(read(tmp_path / "kernels.h5", 3))
    torch.save({"conv.weight": torch.zeros(2, 1, 3, 3)}, tmp_path / "net.pt")
    assert len(list(read(tmp_path / "net.pt", 3))) == 1


@pytest.mark.parametrize(("name", "package"), [("glyphs", "PIL"), ("digits", "sklearn")])
def test_a_data_set_is_refused_in_one_line(absent, tmp_path, name, package):
    absent(package)
    line = rf"^data set {name}: it needs {package}; pip install 'dwp\[workflow\]'$"
    with pytest.raises(InputError, match=line):
        data.build(name, downloads=tmp_path)


def test_last_layer_laplace_is_refused_in_one_line(absent):
    absent("laplace")
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(
        InputError, match=r"^last-layer Laplace: it needs laplace; pip install 'dwp.laplace.'$"
    ):
        last_layer_laplace.predict(model, images, labels, images, samples=1)


def test_training_does_without_a_progress_bar(absent):
    absent("tqdm")
    model = nn.Linear(1, 1)
    rows = fit(
        model,
        lambda x: (model(x).square().mean(), {}),
        (torch.ones(2, 1),),
        Schedule(lr=0.1, steps=2),
        seed=0,
    )
    assert rows == []


def test_importing_the_package_imports_no_torch():
    code = "import sys, dwp; dir(dwp); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
