"""Export of a version with its provenance as an RO-Crate."""

import base64
import json
from pathlib import Path

import pytest
import yaml
from test_extras import absent  # noqa: F401
from version_samples import PRIOR, SOURCE, label, put_results

from dwp.files import sha256
from dwp.pipeline.manifest import write_manifest
from dwp.results.cli import main

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Return a folder of results in which the prior was made from files of the source networks."""
    monkeypatch.chdir(tmp_path)
    results = put_results()
    folder = results / label(PRIOR)
    nets = "results/" + label(SOURCE) + "/nets-000-009.safetensors"
    files = [folder / "vae-7x7.safetensors", folder / "vae-7x7.csv"]
    read = {nets: sha256(nets), "/elsewhere/mine.h5": "1" * 64}
    write_manifest(folder / "vae-7x7.manifest.json", PRIOR.spec, files, seconds=90, read=read)
    return results


def refusal(capsys, *words):
    capsys.readouterr()
    assert main(["export", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_without_the_library_it_is_refused_in_one_line(results, absent, capsys):  # noqa: F811
    absent("rocrate")
    line = "dwp: dwp export --crate: it needs rocrate; pip install 'dwp[crate]'\n"
    assert refusal(capsys, label(PRIOR), "--crate", "crate") == line


def exported(folder):
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    return {entity["@id"]: entity for entity in graph}


def ids(value):
    return [one["@id"] for one in (value if isinstance(value, list) else [value])]


def test_the_crate_of_a_prior_has_a_model_card(results, tmp_path):
    pytest.importorskip("rocrate")
    folder = results / label(PRIOR)
    (folder / "vae-7x7.csv").write_text("step,metric,value\n0,elbo,-3.5\n9,elbo,41.25\n9,kl,6.125\n")
    record = json.loads((folder / "vae-7x7.manifest.json").read_text())
    record["files"]["vae-7x7.csv"] = sha256(folder / "vae-7x7.csv")
    (folder / "vae-7x7.manifest.json").write_text(json.dumps(record))
    assert main(["export", label(PRIOR), "--crate", "crate", "--licence", "CC0-1.0"]) == 0
    _, head, card = (tmp_path / "crate" / "README.md").read_text().split("---\n", 2)
    kind = PRIOR.params["kind"]
    assert yaml.safe_load(head) == {
        "library_name": "dwp",
        "license": "CC0-1.0",
        "tags": ["convolution", "prior", kind],
    }
    assert f"of the kind `{kind}`" in card
    assert 'dwp.load_prior("vae-7x7.safetensors")' in card
    assert "| elbo | 41.25 |\n| kl | 6.12 |" in card
    for made in (SOURCE, PRIOR):
        assert f"| {made.stage} | {made.version} | {made.spec['code'][:8]} |" in card
    assert "README.md" in ids(exported(tmp_path / "crate")["./"]["hasPart"])
    assert main(["export", label(SOURCE), "--crate", "nets"]) == 0
    assert not (tmp_path / "nets" / "README.md").exists()


def test_a_crate_has_the_files_and_the_jobs_that_led_to_them(results, tmp_path):
    pytest.importorskip("rocrate")
    words = ["--author", "Ada Lovelace", "--licence", "https://spdx.org/licenses/CC0-1.0"]
    assert main(["export", label(PRIOR), "--crate", "crate", *words]) == 0
    found = exported(tmp_path / "crate")
    for name in ("vae-7x7.safetensors", "vae-7x7.csv", "vae-7x7.manifest.json"):
        assert (tmp_path / "crate" / name).read_bytes() == (results / label(PRIOR) / name).read_bytes()
        assert found[name]["sha256"] == sha256(results / label(PRIOR) / name)
    root = found["./"]
    assert ids(root["conformsTo"]) == [PROFILE]
    assert root["license"] == words[-1] or ids(root["license"]) == [words[-1]]
    actions = [found[name] for name in ids(root["mentions"])]
    source, prior = actions
    assert {action["@type"] for action in actions} == {"CreateAction"}
    nets = bytes.fromhex(sha256(results / label(SOURCE) / "nets-000-009.safetensors"))
    link = "ni:///sha-256;" + base64.urlsafe_b64encode(nets).decode().rstrip("=")
    assert link in ids(prior["object"])
    assert link in ids(source["result"])
    assert set(ids(prior["result"])) == {"vae-7x7.safetensors", "vae-7x7.csv", "vae-7x7.manifest.json"}
    values = {found[name].get("name"): found[name].get("value") for name in ids(prior["object"])}
    assert (values["kind"], values["schedule.steps"]) == ("vae", 60)
    assert prior["endTime"] > prior["startTime"]
    assert "startTime" not in source
    assert found[ids(prior["agent"])[0]]["name"] == "Ada Lovelace"
    software = found[ids(prior["instrument"])[0]]
    assert (software["@type"], software["name"]) == ("SoftwareApplication", "dwp")
    assert "torch" in {found[name]["name"] for name in ids(software["softwareRequirements"])}


def test_a_crate_is_whole_or_not_there(results, tmp_path, capsys):
    pytest.importorskip("rocrate")
    (tmp_path / "there").mkdir()
    assert "there exists; name a new folder" in refusal(capsys, label(PRIOR), "--crate", "there")
    (results / label(PRIOR) / "vae-7x7.csv").write_text("damaged")
    assert "not as it was written" in refusal(capsys, label(PRIOR), "--crate", "crate")
    assert {path.name for path in tmp_path.iterdir()} == {"results", "there"}


def test_facts_of_a_manifest_from_elsewhere_do_not_matter(results, tmp_path):
    pytest.importorskip("rocrate")
    manifest = results / label(PRIOR) / "vae-7x7.manifest.json"
    strange = {"git": [1], "libraries": "all", "python": {"3": 11}, "seconds": 1e300}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | strange))
    assert main(["export", label(PRIOR), "--crate", "crate"]) == 0


def test_a_crate_conforms_to_its_profile(results, tmp_path, monkeypatch):
    rocrate = pytest.importorskip("rocrate")
    services = pytest.importorskip("rocrate_validator.services")
    models = pytest.importorskip("rocrate_validator.models")
    # The context that comes with rocrate, instead of one from the network.
    bundled = json.loads((Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text())
    monkeypatch.setattr("rocrate_validator.utils.document_loader._fetch_json_ld", lambda url: bundled)
    assert main(["export", label(PRIOR), "--crate", "crate", "--author", "Ada Lovelace"]) == 0
    settings = models.ValidationSettings(
        rocrate_uri=str(tmp_path / "crate"),
        profile_identifier="process-run-crate-0.5",
        requirement_severity=models.Severity.REQUIRED,
    )
    issues = services.validate(settings).get_issues()
    # Two checks download the context themselves.
    context = "ro-crate-1.1_3."
    assert [one.message for one in issues if not one.check.identifier.startswith(context)] == []
