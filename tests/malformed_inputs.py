"""Malformed and hostile inputs, for tests that each of them is one line of error or has no effect."""

import copy
import os
from collections import Counter

from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st

from dwp.errors import InputError
from dwp.pipeline.provenance import Artifact

INPUTS = int(os.environ.get("DWP_INPUTS", "100"))
"""Number of inputs of each kind."""
COUNTS: Counter[tuple[str, str]] = Counter()
"""Number of uses of inputs by test and by what became of them; printed at the end, see conftest.py."""


def given(**strategies):
    """Return a decorator that runs a test for `INPUTS` inputs."""
    return lambda test: settings(max_examples=INPUTS, deadline=None)(generated(**strategies)(test))


def refused(use):
    """Return whether a call raises the documented one-line error; any other error fails the test."""
    message = None
    try:
        use()
    except InputError as error:
        message = str(error)
    assert message is None or (len(message) > 10 and "\n" not in message)
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].removesuffix(" (call)")
    COUNTS[test, "read" if message is None else "refused"] += 1
    return message is not None


# Bytes


@st.composite
def damages(draw):
    """A way to damage bytes: truncate them, change some, insert some, or replace all."""
    kind = draw(st.sampled_from(["cut", "change", "insert", "replace"]))
    return kind, draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=8))


def damaged(content: bytes, damage: tuple) -> bytes:
    kind, where, new = damage
    at = int(where * (len(content) - 1))
    return {
        "cut": content[:at],
        "change": content[:at] + new + content[at + len(new) :],
        "insert": content[:at] + new + content[at:],
        "replace": new,
    }[kind]


# Values

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=6) | st.just("7x7"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(config: object, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(config, dict | list):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            found += places(value, (*path, key))
    return found


def changed(content: dict, place: tuple, kind: str, value: object, key: str) -> dict:
    """Return a copy of nested mappings and lists with a value changed, dropped or added at a place."""
    content = copy.deepcopy(content)
    *parents, last = place
    where = content
    for parent in parents:
        where = where[parent]
    if kind == "drop":
        del where[last]
    elif kind == "add" and isinstance(where[last], dict):
        where[last][key] = value
    else:
        where[last] = value
    return content


kinds = st.sampled_from(["change", "drop", "add"])

# Manifests


def _manifest() -> dict:
    """Return the content of a manifest, as a job writes it."""
    made = Artifact("priors", {"kind": "vae", "steps": 60}, {"kernels": Artifact("kernels", {"size": 7})})
    job = {"input": {"kernels": "results/kernels/89abcdef/kernels-7x7.h5"}, "wildcards": {"name": "vae"}}
    job |= {"output": {"history": "vae-7x7.csv", "manifest": "vae-7x7.manifest.json"}, "threads": 1}
    return {
        **made.spec,
        "finished": "2026-11-20T12:00:00+00:00",
        "files": {"vae-7x7.csv": "0" * 64},
        "read": {job["input"]["kernels"]: "1" * 64},
        "job": job,
    }


MANIFEST = _manifest()
# Paths that leave the folder, and the like.
hostile = st.sampled_from(["../../x", "/etc/passwd", "..", "a/../../b", "", "\0", "~", "a\nb", "file:///x"])
