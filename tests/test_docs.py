"""Links of the README, docs and other pages to files in the repository resolve."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted(page for folder in ("docs/**", "config", ".github") for page in ROOT.glob(f"{folder}/*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile("`[^`]*`")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
EXTERNAL = re.compile("(https?|mailto):")


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and images that are in the repository."""
    text = CODE.sub("", prose(page))
    return [target for target in LINK.findall(text) if not EXTERNAL.match(target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 0
        while (one := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(one)
    return found


def faults(page: Path) -> list[str]:
    """Return the links of a page that point to no file of the repository, or to no heading of a page."""
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists():
            found.append(f"{link}: there is no file {path}")
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            found.append(f"{link}: {target.name} has no heading #{anchor}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_resolve(page):
    assert not faults(page)


def pages_linked_from(page: Path) -> set[Path]:
    """Return the pages that a page links to."""
    targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
    return targets & set(PAGES)


def test_every_page_of_docs_is_reached_from_the_readme():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        new = set().union(*map(pages_linked_from, new)) - reached
    # A few pages only stand for a file outside docs/, which the site shows in their place.
    stand_in = {page for page in PAGES if "On the site, this page shows" in prose(page)}
    assert all(pages_linked_from(page) <= reached for page in stand_in)
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - stand_in <= reached


CONCEPTS = [page for page in PAGES if page.parent.name == "concepts" and page.name != "index.md"]


@pytest.mark.parametrize("page", CONCEPTS, ids=lambda page: page.stem)
def test_every_concept_has_a_formula_and_a_figure(page):
    assert "$$" in prose(page)
    assert any(link.endswith((".png", ".svg")) for link in links(page))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_broken_links_are_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    other, page = tmp_path / "other.md", tmp_path / "page.md"
    other.write_text("# A `name`, and more\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n")
    page.write_text(
        "[a](other.md) [b](other.md#a-name-and-more) [c](other.md#twice-1) [d](#here) [e](https://x.org/y)\n"
        "[![f](missing.png)](other.md)\n# Here\n[g](gone.md) [h](other.md#no-heading) [i](../outside.md)\n"
        "```\n[j](in-code.md)\n```\n`[k](in-code.md)` [`l`](other.md)\n"
    )
    assert faults(page) == [
        "missing.png: there is no file missing.png",
        "gone.md: there is no file gone.md",
        "other.md#no-heading: other.md has no heading #no-heading",
        "../outside.md: there is no file ../outside.md",
    ]
