"""Priors by name, from the Hugging Face hub and from URLs."""

import hashlib
import json
import logging
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from http_server import serve
from prior_helpers import seeded, vae
from safetensors.torch import save_file

import dwp
from dwp import downloads, files, loading
from dwp.errors import InputError
from dwp.pipeline.cards import card
from dwp.priors.base import save_prior

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARDS = dwp.list_priors()
NAMES = [one.name for one in CARDS]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test, and connections without a proxy."""
    monkeypatch.setenv("DWP_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "remote").mkdir()
    with serve(tmp_path / "remote") as server:
        yield server


@pytest.fixture
def content(tmp_path):
    """The bytes of a prior's file."""
    save_prior(vae(3), tmp_path / "own.safetensors")
    return (tmp_path / "own.safetensors").read_bytes()


def kept(cache):
    return sorted(path.name for path in cache.rglob("*") if path.suffix == ".safetensors")


# The collection


def test_the_collection_has_the_priors_of_two_data_sets():
    assert {"glyphs-5x5", "glyphs-7x7", "notmnist-5x5", "notmnist-7x7"} <= {*NAMES}


def test_a_prior_of_every_configuration_is_in_the_collection():
    stems = {path.stem.split("-")[0] for path in (ROOT / "config" / "collection").glob("*.yaml")}
    assert {name.split("-")[0] for name in NAMES} == stems


@pytest.mark.parametrize("entry", CARDS, ids=NAMES)
def test_a_prior_of_the_collection_agrees_with_its_card(entry):
    file = loading.COLLECTION / f"{entry.name}.safetensors"
    assert sha256(file.read_bytes()) == entry.facts["sha256"]
    assert file.stat().st_size < 300_000
    prior = dwp.load_prior(entry.name)
    assert (prior.kind, prior.kernel_size) == (entry.kind, entry.kernel_size)
    # Settings that are newer than the card have their defaults.
    assert prior.settings.items() >= entry.facts["settings"].items()
    assert prior.held_out == entry.facts["held_out"]
    assert (entry.log_prob, entry.standard_error) == (
        prior.held_out["log_prob"],
        prior.held_out["standard_error"],
    )
    w = prior.sample(500, seeded())
    # Draws have about the log density of held-out kernels, unless the prior overfits grossly.
    assert prior.log_prob(w).mean().item() == pytest.approx(entry.log_prob, abs=0.2 * abs(entry.log_prob))
    assert entry.text == card(entry.name, entry.facts)
    assert "/" not in entry.name
    assert "." not in entry.name


@pytest.mark.parametrize("entry", CARDS, ids=NAMES)
def test_a_card_names_data_networks_scores_and_commands(entry):
    assert entry.facts["data"]["licence"]
    assert entry.facts["networks"]["number"] > 0
    assert entry.facts["kernels"]["kept"] == entry.kernels + entry.facts["kernels"]["held_out"]
    for words in (
        f'load_prior("{entry.name}")',
        entry.facts["sha256"],
        f"{entry.log_prob:.2f} ±",
        "accuracy",
    ):
        assert words in entry.text
    configurations = [command.partition("--configfile ")[2] for command in entry.facts["commands"]]
    (configuration,) = {*filter(None, configurations)}
    assert (ROOT / configuration).is_file()


@pytest.mark.parametrize("entry", CARDS, ids=NAMES)
def test_the_documentation_has_the_numbers_of_a_card(entry):
    accuracy = {row["method"]: f"{row['accuracy']:.3f}"[1:] for row in entry.facts["few_shot"]["rows"][::2]}
    assert {row["examples"] for row in entry.facts["few_shot"]["rows"][::2]} == {50}
    cells = f"{entry.source} | {entry.log_prob:.2f} | {entry.facts['gaussian']['log_prob']:.2f}"
    cells += "".join(f" | {accuracy[f'frozen_{kernels}']}" for kernels in ("mixture", "noise", "xavier"))
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    assert f"\n| [`{entry.name}`](../dwp/collection/{entry.name}.md) | {cells} |\n" in page


def test_every_file_of_the_collection_is_in_the_index_and_it_is_small():
    files = {path.name for path in loading.COLLECTION.iterdir()}
    assert sum(path.stat().st_size for path in loading.COLLECTION.iterdir()) < 1_000_000
    expected = {f"{name}{suffix}" for name in NAMES for suffix in (".safetensors", ".md")}
    assert files == {loading.INDEX, *expected}


def test_the_listing_prints_as_a_table_without_importing_torch():
    code = "import sys, dwp; print(dwp.list_priors()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split("  ")[0] == "name"
    assert [row.split()[0] for row in rows] == NAMES
    assert all("nats per kernel" in row for row in rows)
    assert repr(CARDS) == str(CARDS)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"there is no file glyphs-5; .* the nearest is 'glyphs-5x5'"):
        dwp.load_prior("glyphs-5")


@pytest.mark.parametrize("path", ["glyphs-5x5.safetensors", "folder/glyphs-5x5", "./glyphs-5x5"])
def test_what_has_a_suffix_or_a_slash_is_a_path(path):
    with pytest.raises(InputError, match=f"there is no file {path}$"):
        dwp.load_prior(path)


def test_a_file_takes_precedence_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_prior(vae(3), "glyphs-5x5")
    assert dwp.load_prior("glyphs-5x5").kind == "vae"
    (tmp_path / "glyphs-5x5").unlink()
    (tmp_path / "glyphs-5x5").mkdir()
    assert dwp.load_prior("glyphs-5x5").kind == "mixture"


def test_a_damaged_file_of_the_collection_is_refused(tmp_path, monkeypatch):
    copy = shutil.copytree(loading.COLLECTION, tmp_path / "collection")
    monkeypatch.setattr(loading, "COLLECTION", copy)
    file = copy / "glyphs-5x5.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"glyphs-5x5\.safetensors has SHA-256 .*, expected .*damaged"):
        dwp.load_prior("glyphs-5x5")


def test_the_checksum_of_a_local_file_is_checked_if_given(tmp_path, content):
    path = tmp_path / "own.safetensors"
    assert dwp.load_prior(path, sha256=sha256(content)).kernel_size == 3
    with pytest.raises(InputError, match="has SHA-256"):
        dwp.load_prior(path, sha256="0" * 64)


# URLs


def test_a_url_is_loaded_once_and_kept(server, tmp_path, content, cache):
    (tmp_path / "remote" / "x.safetensors").write_bytes(content)
    for _ in range(2):
        prior = dwp.load_prior(f"{server.url}x.safetensors", sha256=sha256(content))
        assert torch.equal(prior.sample(3, seeded()), vae(3).sample(3, seeded()))
    assert server.requested == ["/x.safetensors"]
    assert kept(cache) == [f"{sha256(content)}.safetensors"]


def test_a_damaged_copy_in_the_cache_is_replaced(server, tmp_path, content, cache):
    (tmp_path / "remote" / "x.safetensors").write_bytes(content)
    cache.mkdir()
    (cache / f"{sha256(content)}.safetensors").write_bytes(b"damaged")
    assert dwp.load_prior(f"{server.url}x.safetensors", sha256=sha256(content)).kernel_size == 3
    assert len(server.requested) == 1


def test_a_url_needs_a_checksum(server):
    with pytest.raises(InputError, match="needs a checksum; give sha256="):
        dwp.load_prior(f"{server.url}x.safetensors")
    with pytest.raises(InputError, match="sha256 is 'abc'; expected 64"):
        dwp.load_prior(f"{server.url}x.safetensors", sha256="abc")
    assert server.requested == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (None, "has SHA-256 .*, expected 0000.*; it is not kept"),
        (404, "HTTP 404 .*check the name"),
        (503, "HTTP 503"),
        ("truncate", r"cannot be fetched \(.*check the network"),
        ("stall", r"cannot be fetched \(.*check the network"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(
    server, tmp_path, content, cache, monkeypatch, fault, message
):
    if fault == "stall":
        monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.5)
    (tmp_path / "remote" / "x.safetensors").write_bytes(content)
    if fault:
        server.faults["/x.safetensors"] = fault
    expected = sha256(content) if fault else "0" * 64
    with pytest.raises(InputError, match=message) as error:
        dwp.load_prior(f"{server.url}x.safetensors", sha256=expected)
    assert "\n" not in str(error.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_without_a_network_the_error_says_so(server):
    server.server_close()
    with pytest.raises(InputError, match=r"cannot be fetched \(.*; check the network"):
        dwp.load_prior("http://127.0.0.1:9/x.safetensors", sha256="0" * 64)


def test_downloads_that_are_no_priors_are_refused_by_their_address(server, tmp_path):
    class Payload:
        def __reduce__(self):
            return exec, ("raise SystemExit('executed')",)

    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "remote" / "weights.safetensors")
    (tmp_path / "remote" / "pickle.safetensors").write_bytes(pickle.dumps(Payload()))
    for name, reason in (("weights", "is not a prior"), ("pickle", "cannot be read as safetensors")):
        url = f"{server.url}{name}.safetensors"
        digest = sha256((tmp_path / "remote" / f"{name}.safetensors").read_bytes())
        with pytest.raises(InputError, match=f"prior: {url} {reason}"):
            dwp.load_prior(url, sha256=digest)


@pytest.mark.parametrize(
    "url", ["http://[", "http://[::1", "https://]/x", "http://a:port/x", "http://" + "é" * 300]
)
def test_a_malformed_address_is_refused_in_one_line(url, tmp_path, monkeypatch):
    monkeypatch.setenv("DWP_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"^prior: ") as refusal:
        dwp.load_prior(url, sha256="0" * 64)
    assert "\n" not in str(refusal.value)


# The hub


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """A function that puts content on a hub, which redirects to its storage."""
    monkeypatch.setenv("HF_ENDPOINT", server.url.rstrip("/"))

    def put(content, path="me/kernels/resolve/main/prior.safetensors", stated=True):
        digest = sha256(content)
        (tmp_path / "remote" / digest).write_bytes(content)
        server.faults[f"/{path}"] = f"/{digest}"
        server.headers[f"/{path}"] = {"X-Linked-Etag": f'"{digest}"'} if stated else {}

    return put


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("hf:me/kernels", "me/kernels/resolve/main/prior.safetensors"),
        ("hf:me/kernels/sub/a.safetensors", "me/kernels/resolve/main/sub/a.safetensors"),
        ("hf:me/kernels@v1", "me/kernels/resolve/v1/prior.safetensors"),
        ("hf:me/kernels/a.safetensors@refs/pr/1", "me/kernels/resolve/refs%2Fpr%2F1/a.safetensors"),
    ],
)
def test_a_reference_names_a_file_of_a_repository(hub, server, content, cache, reference, path):
    hub(content, path)
    assert dwp.load_prior(reference).kernel_size == 3
    assert server.requested[0] == f"/{path}"
    assert kept(cache) == [f"{sha256(content)}.safetensors"]


def test_an_unchanged_file_of_a_branch_is_not_read_again_and_a_changed_one_is(hub, tmp_path, content):
    hub(content)
    dwp.load_prior("hf:me/kernels")
    (tmp_path / "remote" / sha256(content)).write_bytes(b"not to be read")
    assert dwp.load_prior("hf:me/kernels").kernel_size == 3
    save_prior(vae(5), tmp_path / "other.safetensors")
    hub((tmp_path / "other.safetensors").read_bytes())
    assert dwp.load_prior("hf:me/kernels").kernel_size == 5


def test_without_a_network_the_last_copy_is_used(hub, server, content, caplog):
    hub(content)
    dwp.load_prior("hf:me/kernels")
    server.faults["/me/kernels/resolve/main/prior.safetensors"] = 503
    for reason in ("HTTP 503", "cannot be fetched"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert dwp.load_prior("hf:me/kernels").kernel_size == 3
        assert reason in caplog.text
        assert "the copy in the cache is used" in caplog.text
        if reason == "HTTP 503":
            server.shutdown()
            server.server_close()
    with pytest.raises(InputError, match="cannot be fetched"):
        dwp.load_prior("hf:me/others")


def test_a_commit_and_a_checksum_need_the_hub_once(hub, server, content):
    hub(content, f"me/kernels/resolve/{COMMIT}/prior.safetensors")
    dwp.load_prior(f"hf:me/kernels@{COMMIT}")
    asked = len(server.requested)
    dwp.load_prior(f"hf:me/kernels@{COMMIT}")
    dwp.load_prior("hf:me/elsewhere", sha256=sha256(content))
    assert len(server.requested) == asked


def test_what_the_hub_sends_is_checked_against_what_it_states(hub, tmp_path, content, cache):
    hub(content)
    (tmp_path / "remote" / sha256(content)).write_bytes(content[:-1] + b"!")
    with pytest.raises(InputError, match=r"has SHA-256 .*, expected"):
        dwp.load_prior("hf:me/kernels")
    assert kept(cache) == []


def test_a_file_without_a_checksum_needs_one(hub, content):
    hub(content, stated=False)
    with pytest.raises(InputError, match="comes without a SHA-256; give sha256="):
        dwp.load_prior("hf:me/kernels")
    assert dwp.load_prior("hf:me/kernels", sha256=sha256(content)).kernel_size == 3


@pytest.mark.parametrize("reference", ["hf:", "hf:kernels", "hf:me/kernels/prior.pt", "hf:me/kernels@"])
def test_malformed_references_are_refused(reference):
    with pytest.raises(InputError, match=r"expected hf:owner/name\[/file\.safetensors\]\[@revision\]"):
        dwp.load_prior(reference)


def test_the_cache_is_in_the_users_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("DWP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg" / "dwp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / ".cache" / "dwp"


def test_the_index_is_readable_json():
    assert list(json.loads((loading.COLLECTION / loading.INDEX).read_text())) == sorted(NAMES)
