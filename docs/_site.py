"""Sphinx extension of the documentation site: pages from outside docs/, docstrings, commands, formulas.

Formulas become MathML, which browsers render themselves, so that the site loads nothing from other servers.
"""

import argparse
import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

from dwp import cli
from dwp.results import cli as workflow_cli

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent

SHOWN = {
    "contributing": ["CONTRIBUTING.md"],
    "changelog": ["CHANGELOG.md"],
    "configuration-files": ["config/README.md"],
    "collection": sorted(f"dwp/collection/{file.name}" for file in (ROOT / "dwp/collection").glob("*.md")),
}
"""Pages of the site that show files from outside docs/, relative to the root of the repository."""

SPECIAL = re.compile(r"\||(?<=: [A-Za-z])\.$")
"""Markup in docstrings by accident: the bar of p(w|z), a substitution, and "channels: C.", an enumeration."""

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register everything; called by Sphinx."""
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", prepare, priority=400)  # before napoleon
    app.add_directive("commands", Commands)
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# Pages


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the text of a page by the files that it shows, and let links lead to pages of the site."""
    texts = {f"docs/{page}.md": source[0]}
    if page in SHOWN:
        texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in SHOWN[page]}
        for file in texts:
            app.env.note_dependency(str(ROOT / file))
    if len(texts) > 1:
        # Each file becomes a section of the page, below its own heading.
        texts = {file: re.sub("^#", "##", text, flags=re.MULTILINE) for file, text in texts.items()}
        texts = {f"docs/{page}.md": source[0], **texts}
    folders = {file: posixpath.dirname(file) for file in texts}
    source[0] = "\n".join(
        LINK.sub(lambda match, at=folders[file]: relinked(match, at, f"docs/{page}"), text)
        for file, text in texts.items()
    )


def relinked(match: re.Match, folder: str, page: str) -> str:
    """Return a Markdown link for use on a page of the site; a link to a folder becomes its text.

    Args:
        match: the link, matched by `LINK`.
        folder: folder that the link is relative to.
        page: the page; both are relative to the root of the repository.
    """
    label, target, anchor = match.group(1), posixpath.normpath(f"{folder}/{match.group(2)}"), match.group(3)
    target = target.lstrip("/")
    if (ROOT / target).is_dir():
        return label
    for shown, files in SHOWN.items():
        if target in files:
            if len(files) > 1:
                anchor = f"#{Path(target).stem}"
            target = f"docs/{shown}.md"
    return f"[{label}]({posixpath.relpath(target, posixpath.dirname(page))}{anchor or ''})"


# Docstrings


def prepare(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Make reStructuredText of a docstring, before napoleon takes its sections.

    Indented code and formulas become literal blocks. Elsewhere, what is markup by accident is escaped.
    """
    found: list[str] = []
    literal, outer, depth = False, 0, 0
    for line in lines:
        depth = len(line) - len(line.lstrip()) if line.strip() else depth
        if line.strip() and depth <= outer:
            literal = False
        elif line.strip() and not literal and found and not found[-1]:
            literal = True
            found += [" " * outer + "::", ""]
        if line.strip() and not literal:
            outer = depth
        found.append(line if literal else SPECIAL.sub(r"\\\g<0>", line))
    if what in ("attribute", "data", "property") and found:
        # Napoleon would take the text before the first colon for a type.
        found[0] = f":{found[0]}"
    lines[:] = found


# Commands


class Commands(SphinxDirective):
    """The commands of `dwp` with their arguments, a section each."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        text = "\n".join(line for name, parser in commands() for line in described(name, parser))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield name and parser of each command, first those for priors."""
    for parser in (cli._parser(), workflow_cli._parser()):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((name, one) for name, one in action.choices.items() if one.description)


def described(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines of a section about a command, in Markdown."""
    yield f"## `dwp {name}`\n"
    yield inspect.cleandoc(parser.description or "") + "\n"
    yield "| argument | meaning |\n|---|---|"
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            yield f"| {argument(action)} | {action.help} |"
    yield ""


def argument(action: argparse.Action) -> str:
    """Return an argument as it is written on the command line, and whether an option is required."""
    value = action.metavar or action.dest.upper()
    if not action.option_strings:
        return f"`{action.metavar or action.dest}{' …' if action.nargs else ''}`"
    if action.nargs == 0:
        value = ""
    elif action.nargs == "+":
        value += " …"
    written = f"`{' '.join([action.option_strings[0], str(value)]).strip()}`"
    return written + (" (required)" if action.required else "")


# Formulas


def inline_formula(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def formula(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    translator.body.append(f'<div class="formula">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def mathml(node: nodes.math | nodes.math_block, *, as_block: bool) -> str:
    """Return a formula as MathML; warn of one that cannot be translated."""
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logger.warning("%s in the formula %s", error, node.astext(), location=node)
        return node.astext()
