"""Shards: results finished by other shards are reused and do not change the output."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import snakemake

from dwp.data import Dataset, save
from dwp.files import sha256
from dwp.pipeline import paths, shards
from dwp.pipeline.manifest import write_manifest
from dwp.pipeline.provenance import Artifact
from dwp.pipeline.stages import experiment, source

CPU = torch.device("cpu")
SCHEDULE = {"steps": 3, "batch": 8, "lr": 0.01, "precision": "float32"}
NETWORK = {"layers": [{"conv": 2, "kernel": 7, "pool": 2}], "batch_norm": True}
NETS = {"network": NETWORK, "l2": 0.01, "schedule": SCHEDULE}
FEW_SHOT = {"network": NETWORK, "schedule": SCHEDULE, "every": 1, "ensemble": 2, "kernel_subset": None}
FEW_SHOT |= {"posterior_samples": 1, "importance_samples": 1, "train_reverse_model": False, "outliers": False}
L2 = {"posterior": "none", "l2": 0.001, "init": {"from": "xavier"}}
SOURCE = Artifact("source", {"l2": 0.01})
VERSION, SPEC = SOURCE.version, SOURCE.spec | {"code": "a" * 32}
READ = {"results/data/89abcdef/noise.safetensors": "0" * 64}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Return the file of a small data set."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (n, 1, 14, 14), dtype=torch.uint8, generator=generator) for n in (30, 16)]
    noise = Dataset("noise", images[0], torch.arange(30) % 3, images[1], torch.arange(16) % 3)
    save(noise, file := tmp_path_factory.mktemp("data") / "noise.safetensors")
    return file


class Job:
    """The attributes of a job that stages use, in a temporary folder, without Snakemake."""

    device, config = CPU, {}

    def __init__(self, folder: Path, pattern: paths.Pattern, params: dict, inputs: dict, **fields: str):
        def file(suffix):
            return str(folder / pattern.file(suffix, version=VERSION, **fields))

        outputs = {"nets": "safetensors", "table": "csv", "seconds": "seconds.tsv"}
        outputs = outputs if pattern == paths.NETS else {"rows": "csv"}
        self.output = SimpleNamespace(**{name: file(suffix) for name, suffix in outputs.items()})
        self.manifest, self.files = file(paths.MANIFEST), list(vars(self.output).values())
        self.wildcards, self.params, self.spec = SimpleNamespace(**fields), params, SPEC
        self.input = type("Input", (dict,), {"__getattr__": dict.__getitem__})(inputs)

    def checkpoint(self) -> None:
        return None

    def completed_elsewhere(self) -> list[shards.Completed]:
        self.found = shards.completed(self.manifest, SPEC, READ)
        return self.found

    def run(self, main) -> list[int]:
        """Run a stage and write the manifest; return the numbers that were reused."""
        main(self)
        write_manifest(self.manifest, SPEC, self.files, read=READ)
        return [number for part in self.found for number in part.numbers]


FOLDER = Path("results", "source", VERSION)


def make_nets(folder: Path, shard: str, dataset: Path) -> list[int]:
    return Job(folder, paths.NETS, NETS, {"dataset": dataset}, shard=shard).run(source.main)


def test_nets_are_taken_over_byte_by_byte(tmp_path, dataset):
    assert make_nets(tmp_path / "fresh", "000-003", dataset) == []
    assert make_nets(tmp_path / "grown", "000-001", dataset) == []
    assert make_nets(tmp_path / "grown", "002-002", dataset) == []
    assert make_nets(tmp_path / "grown", "000-003", dataset) == [0, 1, 2]
    fresh, grown = tmp_path / "fresh" / FOLDER, tmp_path / "grown" / FOLDER
    assert sha256(fresh / "nets-000-003.safetensors") == sha256(grown / "nets-000-003.safetensors")
    assert sha256(fresh / "nets-000-003.csv") == sha256(grown / "nets-000-003.csv")
    assert list(pd.read_csv(fresh / "nets-000-003.csv")) == ["net", "seed", "accuracy", "nll"]
    # The seconds are those that a net's training took, digit by digit.
    before, after = (
        [line for path in sorted(grown.glob(pattern)) for line in path.read_text().splitlines()[1:]]
        for pattern in ("nets-00[02]-00[12].seconds.tsv", "nets-000-003.seconds.tsv")
    )
    assert after[:3] == before

    # Nothing is trained, so the table is the same to the last byte too.
    (whole,) = fresh.glob("*.csv")
    content = whole.read_bytes()
    assert make_nets(tmp_path / "fresh", "000-001", dataset) == [0, 1]
    assert make_nets(tmp_path / "fresh", "002-003", dataset) == [2, 3]
    for path in fresh.glob("nets-000-003.*"):
        path.unlink()
    assert make_nets(tmp_path / "fresh", "000-003", dataset) == [0, 1, 2, 3]
    assert whole.read_bytes() == content


def test_seeds_are_taken_over_byte_by_byte(tmp_path, dataset):
    params = {"settings": FEW_SHOT, "method": L2, "priors": {}}
    cell = {"experiment": "few_shot", "method": "l2", "axis": "examples", "setting": "9"}

    def make(folder: Path, shard: str) -> list[int]:
        return Job(folder, paths.CELL, params, {"dataset": dataset}, shard=shard, **cell).run(experiment.main)

    assert make(tmp_path / "fresh", "000-002") == []
    assert make(tmp_path / "grown", "000-001") == []
    assert make(tmp_path / "grown", "000-002") == [0, 1]
    files = [next((tmp_path / folder).rglob("*000-002.csv")) for folder in ("fresh", "grown")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture
def shard(tmp_path):
    """A finished shard of three nets; its files hold anything."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    for suffix in (".safetensors", ".csv"):
        (folder / f"nets-000-002{suffix}").write_text("anything")
    files = [folder / f"nets-000-002{suffix}" for suffix in (".safetensors", ".csv")]
    write_manifest(folder / "nets-000-002.manifest.json", SPEC, files, read=READ)
    return folder


def taken(folder: Path, shard: str = "002-005", spec: dict = SPEC, read: dict = READ) -> list[tuple]:
    found = shards.completed(folder / f"nets-{shard}.manifest.json", spec, read)
    return [(part.numbers, sorted(part.files)) for part in found]


def test_only_what_is_asked_for_is_taken_over_and_once(shard):
    assert taken(shard) == [((2,), ["csv", "safetensors"])]
    assert taken(shard, "003-005") == []
    # Not from itself: Snakemake requested it, so it must be made.
    assert taken(shard, "000-002") == []
    for path in list(shard.iterdir()):
        text = path.read_text().replace("000-002", "001-004")
        path.with_name(path.name.replace("000-002", "001-004")).write_text(text)
    assert [numbers for numbers, _ in taken(shard, "000-009")] == [(0, 1, 2), (3, 4)]


def test_seeds_of_another_setting_are_not_taken_over_but_under_another_name(tmp_path):
    cell = {"experiment": "few_shot", "version": VERSION, "method": "l2", "axis": "examples"}
    for name, fields in {"own": {}, "setting": {"setting": "50"}, "method": {"method": "l2_dwp"}}.items():
        fields = cell | {"setting": "20", "shard": "000-001"} | fields
        file = tmp_path / name / paths.CELL.file("csv", **fields)
        file.parent.mkdir(parents=True)
        file.write_text("anything")
        write_manifest(paths.manifest(file), SPEC, [file], read=READ)
        own = tmp_path / name / paths.CELL.file(paths.MANIFEST, setting="20", shard="000-002", **cell)
        numbers = [part.numbers for part in shards.completed(own, SPEC, READ)]
        # A version is of one method, whatever it is called.
        assert numbers == ([] if name == "setting" else [(0, 1)])


def test_a_renamed_method_trains_nothing(tmp_path, dataset):
    params = {"settings": FEW_SHOT, "method": L2, "priors": {}}
    cell = {"experiment": "few_shot", "axis": "examples", "setting": "9", "shard": "000-001"}

    def make(name: str) -> list[int]:
        job = Job(tmp_path, paths.CELL, params, {"dataset": dataset}, method=name, **cell)
        return job.run(experiment.main)

    assert make("l2") == []
    assert make("plain") == [0, 1]
    old, new = (next(tmp_path.rglob(f"{name}_*.csv")).read_text() for name in ("l2", "plain"))
    assert new == old.replace(",l2,", ",plain,") != old


def test_what_other_code_made_or_from_other_bytes_is_not_taken_over(shard):
    assert taken(shard, spec=SPEC | {"code": "b" * 32}) == []
    assert taken(shard, spec=SPEC | {"params": {"l2": 0.02}}) == []
    # The version of an input does not tell which code made it; its bytes do.
    assert taken(shard, read=dict.fromkeys(READ, "1" * 64)) == []
    assert taken(shard, read={}) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".csv", ".manifest.json"])
def test_what_is_damaged_or_missing_is_not_taken_over(shard, suffix):
    (shard / f"nets-000-002{suffix}").write_text("anythinG")
    assert taken(shard) == []
    (shard / f"nets-000-002{suffix}").unlink()
    assert taken(shard) == []


# In the workflow


@pytest.fixture
def run(smoke_run, tmp_path):
    """Return a copy of the finished run, times included."""
    return shutil.copytree(smoke_run, tmp_path / "run", symlinks=True)


def test_two_more_nets_train_two_nets_in_whatever_shards(run, smoke_run, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("source: {nets: 10, shard: 10}\n")
    done = snakemake(run, str(overlay), "--until", "source")
    assert done.returncode == 0, done.stdout[-5000:]
    (log,) = (run / "results").glob("source/*/nets-000-009.log")
    assert re.findall(r"source net (\d+): step (\d+) of \2,", log.read_text()) == [("8", "240"), ("9", "240")]
    assert "0, 1, 2, 3 taken over from nets-000-003\n" in log.read_text()

    overlay.write_text("source: {shard: 3}\n")
    done = snakemake(run, str(overlay), "--until", "kernels")
    assert done.returncode == 0, done.stdout[-5000:]
    for shard in ("000-002", "003-005", "006-007"):
        (log,) = (run / "results").glob(f"source/*/nets-{shard}.log")
        assert "taken over" in log.read_text()
        assert "step" not in log.read_text()
    for store in (smoke_run / "results").glob("kernels/*/*.h5"):
        assert sha256(run / store.relative_to(smoke_run)) == sha256(store)


def test_one_more_seed_runs_one_seed(run, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("experiments: {few_shot: {seeds: 3, shard: 3}}\n")
    (old,) = (run / "results").glob("few_shot/*/l2_xavier_examples-20_seeds-000-001.csv")
    new = old.with_name("l2_xavier_examples-20_seeds-000-002.csv")
    done = snakemake(run, str(overlay), "--", str(new.relative_to(run)))
    assert done.returncode == 0, done.stdout[-5000:]
    log = new.with_suffix(".log").read_text()
    assert "0, 1 taken over from l2_xavier_examples-20_seeds-000-001\n" in log
    assert re.findall(r"seed (\d+): step 20 of 20", log) == ["2"]
    assert new.read_bytes().startswith(old.read_bytes())
