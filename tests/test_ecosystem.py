"""The workflow used from another folder, as a module of another workflow, and from a wheel."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import chaos
import pytest
import yaml
from conftest import ROOT, snakemake
from forks import forked_snakemake

SMOKE = ROOT / ".test" / "config" / "config.yaml"
SNAKEFILE = ROOT / "workflow" / "Snakefile"

PARENT = f"""
configfile: "settings.yaml"


module dwp:
    snakefile: "{SNAKEFILE}"
    config: config["dwp"]


use rule * from dwp as dwp_*


rule mine:
    default_target: True
    input:
        rules.dwp_report.output.manifest,
    output:
        "mine.txt",
    params:
        number=config["number"],
    shell:
        "echo {{params.number}} > {{output}}"


onsuccess:
    dwp.onsuccess()
"""


# A job as Snakemake starts it, as far as the check needs.
SCRIPT = """
from types import SimpleNamespace
from dwp.pipeline.job import Job
spec = {{"stage": "data", "version": "0123abcd", "params": {{}}, "inputs": {{}}, "code": ""}}
with Job(SimpleNamespace(
    params=SimpleNamespace(spec=spec), input=[], output=[], wildcards=None, config={{}}, log=["job.log"],
    threads=1, scriptdir="{scripts}",
)):
    pass
"""


def remove(run: Path, *patterns: str) -> None:
    """Delete results that match patterns, so that a run has jobs."""
    for pattern in patterns:
        found = list((run / "results").glob(pattern))
        assert found, pattern
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def rules(output: str) -> set[str]:
    return set(re.findall(r"^(?:local)?rule (\w+):", output, re.MULTILINE))


def run_parent(folder: Path, *words: str, number: int = 7, **overlay: object) -> str:
    """Run the other workflow in a folder with an overlay over the smoke configuration."""
    (folder / "Snakefile").write_text(PARENT)
    settings = {"number": number, "dwp": yaml.safe_load(SMOKE.read_text()) | overlay}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    run = forked_snakemake if "--dry-run" in words else snakemake
    done = run(folder, *words, snakefile=folder / "Snakefile", config=None)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def test_from_another_folder_with_the_snakefile_of_the_standard_layout(smoke_run, tmp_path):
    run = shutil.copytree(smoke_run, tmp_path / "run", symlinks=True)
    remove(run, "kl_subset", "report")
    done = snakemake(run, snakefile=SNAKEFILE, config=SMOKE)
    assert done.returncode == 0, done.stdout[-5000:]
    assert rules(done.stdout) == {"all", "experiment", "report"}
    assert chaos.artifacts(run) == chaos.artifacts(smoke_run)


def test_as_a_module_of_another_workflow(smoke_run, tmp_path):
    shutil.copytree(smoke_run / "results", tmp_path / "results", symlinks=True)
    remove(tmp_path, "kl_subset", "report", "latest")
    assert rules(run_parent(tmp_path)) == {"dwp_experiment", "dwp_report", "mine"}
    assert (tmp_path / "mine.txt").read_text() == "7\n"
    assert chaos.artifacts(tmp_path) == chaos.artifacts(smoke_run)
    assert (tmp_path / "results/latest/report/manifest.json").exists()
    assert "Nothing to be done" in run_parent(tmp_path, "--dry-run")
    # The parameters of the other workflow's rules count as ever, and so do those of this one.
    assert rules(run_parent(tmp_path, "--dry-run", number=8)) == {"mine"}
    changed = run_parent(tmp_path, "--dry-run", report={"dpi": 61})
    assert rules(changed) == {"dwp_report", "mine"}


def test_a_module_with_a_prefix_is_refused(tmp_path):
    text = PARENT.replace('    config: config["dwp"]', '    config: config["dwp"]\n    prefix: "elsewhere"')
    (tmp_path / "Snakefile").write_text(text)
    (tmp_path / "settings.yaml").write_text("{number: 1, dwp: {}}")
    done = forked_snakemake(tmp_path, "--dry-run", snakefile=tmp_path / "Snakefile", config=None)
    assert done.returncode != 0
    assert "module: prefix and replace_prefix are not supported" in done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with the package alone, as a wheel installs it, inside another repository."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "dwp", folder / "dwp", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, "commit", "--quiet", "--allow-empty", "-m", "mine"]
    subprocess.run(command, check=True)
    return folder


def dwp(installed: Path, run: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dwp", *words]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=run, env=environment, text=True, capture_output=True, check=False)


def test_a_wheel_verifies_and_lists_results(installed, smoke_run):
    verified = dwp(installed, smoke_run, "verify")
    assert verified.returncode == 0, verified.stderr
    assert ", 0 missing or damaged" in verified.stdout
    listed = dwp(installed, smoke_run, "versions")
    assert listed.returncode == 0, listed.stderr
    assert "vae-7x7" in listed.stdout
    assert "USED BY is unknown" in listed.stderr
    assert listed.stderr.count("\n") == 1
    complete = dwp(installed, smoke_run, "versions", "--configfile", str(ROOT / "config.yaml"), str(SMOKE))
    assert complete.returncode == 0, complete.stderr
    assert complete.stderr == ""
    unused = [line for line in complete.stdout.splitlines()[1:] if not line.endswith("config+smoke")]
    assert unused == []


def test_a_wheel_prunes_nothing_without_a_configuration(installed, smoke_run):
    pruned = dwp(installed, smoke_run, "prune", "--yes")
    assert pruned.returncode == 2
    assert pruned.stderr.startswith(
        "dwp: the workflow's config.yaml is not installed along with the library; "
    )
    assert pruned.stderr.count("\n") == 1


def test_the_repository_around_an_installed_package_is_not_its_own(installed, tmp_path):
    code = "from dwp.pipeline.manifest import _git_state; print(_git_state())"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True)
    assert done.stdout == "{'commit': None, 'clean': None}\n"


def test_a_workflow_runs_with_the_library_beside_it_only(installed, tmp_path):
    # If Python finds another installed dwp first, the job ends with a one-line error.
    text = SCRIPT.format(scripts=ROOT / "workflow" / "scripts")
    command = [sys.executable, "-c", text]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == f"error: dwp was imported from {installed}, not from {ROOT}; pip install -e {ROOT}\n"
    )


def test_environments_are_where_the_rules_say():
    files = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
    found = [
        (file.parent / path).resolve()
        for file in files
        for path in re.findall(r'conda:\n\s*"(.+)"', file.read_text())
    ]
    assert len(found) == len(files)
    assert set(found) == {ROOT / "envs" / "dwp.yaml"}


REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "h5py"):
            raise ModuleNotFoundError(f"refused: {name}", name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_lint_is_clean_without_torch(tmp_path, snakefile):
    """Lint as Snakemake's workflow catalogue does."""
    (tmp_path / "sitecustomize.py").write_text(REFUSE)
    command = [sys.executable, "-m", "snakemake", "--lint", "--snakefile", str(ROOT / snakefile)]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Congratulations, your workflow is in a good condition!" in done.stdout + done.stderr


def test_format_is_clean():
    pytest.importorskip("snakefmt")
    done = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "workflow"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
