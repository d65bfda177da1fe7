"""The extension of the documentation site: links of its pages, docstrings, commands, formulas."""

import sys

import pytest
from conftest import ROOT
from docutils import nodes

pytest.importorskip("sphinx", reason="the site needs the extra docs")


@pytest.fixture
def site(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import _site

    yield _site
    sys.modules.pop("_site")


@pytest.mark.parametrize(
    ("link", "folder", "page", "expected"),
    [
        ("[a](library.md#priors)", "docs", "docs/workflow", "[a](library.md#priors)"),
        ("[a](docs/library.md#priors)", "", "docs/contributing", "[a](library.md#priors)"),
        ("[a](../docs/library.md)", "config", "docs/configuration-files", "[a](library.md)"),
        (
            "[a](../../CONTRIBUTING.md#style)",
            "docs/concepts",
            "docs/concepts/x",
            "[a](../contributing.md#style)",
        ),
        ("[a](../dwp/collection/glyphs-3x3.md)", "docs", "docs/library", "[a](collection.md#glyphs-3x3)"),
        ("[a](../config.yaml)", "docs", "docs/workflow", "[a](../config.yaml)"),
        ("[`a`](../dwp/collection)", "docs", "docs/library", "`a`"),
        ("[a](https://x.org/y) [b](#c) ![d](e.png)", "docs", "docs/library", None),
    ],
)
def test_links_lead_to_pages_of_the_site(site, link, folder, page, expected):
    found = site.LINK.sub(lambda match: site.relinked(match, folder, page), link)
    assert found == (expected or link)


def prepared(site, text, what="function"):
    lines = text.splitlines()
    site.prepare(None, what, "name", None, None, lines)
    return "\n".join(lines)


def test_formulas_in_docstrings_are_literal_and_sections_are_not(site):
    text = "p(w|z):\n\n    p(w|z) = 1\n\nMore.\n\nArgs:\n    c: of\n        all: C.\n    d: D.\n"
    assert prepared(site, text) == (
        "p(w\\|z):\n\n::\n\n    p(w|z) = 1\n\nMore.\n\nArgs:\n    c: of\n        all: C\\.\n    d: D\\."
    )


def test_the_text_before_a_colon_is_not_the_type_of_an_attribute(site):
    from sphinx.ext.napoleon import Config, GoogleDocstring

    line = prepared(site, "No noise: the mean.", "attribute")
    assert GoogleDocstring([line], Config(), what="attribute", name="x").lines() == ["No noise: the mean."]


def test_every_command_is_described_with_its_options(site):
    from dwp.cli import WORKFLOW

    text = {name: "\n".join(site.described(name, parser)) for name, parser in site.commands()}
    assert set(text) == {"info", "sample", "fit", "init", *WORKFLOW}
    assert "| `--size SIZE` (required) | kernel size" in text["fit"]
    assert "| `PATH …` | checkpoints" in text["fit"]
    assert "| `--yes` | delete" in text["prune"]
    assert "| `--prior PRIOR …` (required) |" in text["init"]


def test_a_formula_that_cannot_be_translated_is_a_warning(site, monkeypatch):
    warnings = []
    monkeypatch.setattr(site.logger, "warning", lambda *words, **options: warnings.append(words))
    assert "<mi>x</mi>" in site.mathml(nodes.math("", "x"), as_block=False)
    assert site.mathml(nodes.math("", r"\unknown"), as_block=False) == r"\unknown"
    assert len(warnings) == 1
