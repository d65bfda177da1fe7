"""Artifacts whose versions begin with the same eight digits are noticed, never mixed."""

import json
import shutil

import pytest
from configurations import plan
from version_samples import label, put

from dwp.errors import InputError
from dwp.pipeline import paths
from dwp.pipeline.manifest import read_manifest
from dwp.pipeline.plan import Plan
from dwp.pipeline.provenance import Artifact, by_version, code_digest, refuse_others_in_folders
from dwp.results import artifact_store


@pytest.fixture(scope="module")
def pair():
    """Return two artifacts of a stage whose versions really begin alike; one in some 80,000 has a twin."""
    found: dict[str, Artifact] = {}
    for number in range(1_000_000):
        artifact = Artifact("source", {"l2": number})
        if other := found.get(artifact.version):
            return other, artifact
        found[artifact.version] = artifact
    raise AssertionError("no two versions of a million share eight digits")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_sixteen_bytes_tell_apart_what_eight_digits_do_not(pair):
    one, other = pair
    assert one.folder == other.folder
    assert one.digest != other.digest
    assert len(one.digest) == 32
    assert len(code_digest(["dwp.errors"])) == 32
    # And so for what is made from them, whose folders differ.
    priors = [Artifact("priors", {}, {"source": source}) for source in pair]
    assert priors[0].version != priors[1].version


def test_the_manifest_has_the_whole_digests(pair):
    prior = Artifact("priors", {}, {"source": pair[0]})
    manifest = read_manifest(put(prior, "vae-7x7.csv") / "vae-7x7.manifest.json")
    assert manifest["version"] == prior.digest
    assert manifest["inputs"] == {"source": f"source/{pair[0].digest}"}
    (version,) = artifact_store.read()
    assert (version.label, version.spec["inputs"]) == (label(prior), {"source": label(pair[0])})


def one_line(error: pytest.ExceptionInfo, pair) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert all(artifact.digest in message for artifact in pair)
    assert label(pair[0]) in message
    assert "change a parameter" in message


def test_two_in_one_configuration_are_refused(pair):
    with pytest.raises(InputError) as error:
        by_version(pair)
    one_line(error, pair)
    same = Artifact(pair[0].stage, pair[0].params, name="by another name")
    assert list(by_version([pair[0], same])) == [pair[0].version]


def test_another_on_the_disk_is_refused_and_stays(pair):
    one, other = pair
    file = put(one, "nets-000-009.csv") / "nets-000-009.csv"
    refuse_others_in_folders([one])
    with pytest.raises(InputError) as error:
        refuse_others_in_folders([other])
    one_line(error, pair)
    assert file.read_text() == f"nets-000-009.csv of {one.version}"
    # A damaged manifest, or one that was moved here, is no other artifact: its job runs again.
    manifest = file.with_name("nets-000-009.manifest.json")
    manifest.write_text("{")
    refuse_others_in_folders([other])
    elsewhere = put(Artifact("source", {"l2": -1}), "nets-000-009.csv")
    shutil.copy(elsewhere / manifest.name, manifest)
    refuse_others_in_folders([other])
    shutil.rmtree(file.parent)
    refuse_others_in_folders([other])


def test_a_manifest_whose_digest_is_not_that_of_its_parameters_is_damaged(pair):
    one, other = pair
    manifest = put(one, "nets-000-009.csv") / "nets-000-009.manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"version": other.digest}))
    with pytest.raises(InputError, match="its parameters and inputs give the version"):
        read_manifest(manifest)
    faults, _ = artifact_store.verify(artifact_store.read())
    assert {"file": str(manifest), "fault": "damaged"} in faults


def test_a_plan_refuses_them(monkeypatch):
    monkeypatch.setattr(paths, "DIGITS", 1)  # of sixty artifacts, two begin alike
    with pytest.raises(InputError, match="change a parameter"):
        plan().artifacts  # noqa: B018


def test_a_plan_refuses_another_on_the_disk(pair, monkeypatch):
    one, other = pair
    put(one, "nets-000-009.csv")
    plan().refuse_collisions()
    monkeypatch.setattr(Plan, "source", other)
    with pytest.raises(InputError, match=f"{label(one)} .* change a parameter"):
        plan().refuse_collisions()
