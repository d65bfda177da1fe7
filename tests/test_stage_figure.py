"""The figure of the workflow's stages is current, and shows what the artifacts are made from."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from dwp.pipeline import stage_figure
from dwp.pipeline.config.files import read_config
from dwp.pipeline.plan import Plan
from dwp.pipeline.stage_figure import FIGURE, LABELS, figure, layout, reduced, stages

CHAIN = ["source data", "source", "kernels", "priors", "trials", "tuning", "experiments", "report"]


@pytest.fixture(scope="module")
def graph():
    return stages(Plan(read_config([])))


def test_the_figure_is_current(graph):
    assert FIGURE.read_text(encoding="utf-8") == figure(graph), "run python -m dwp.pipeline.stage_figure"


def test_stages_are_made_from_what_their_artifacts_are_made_from(graph):
    assert graph.keys() == LABELS.keys()
    assert graph["source data"] == graph["target data"] == set()
    assert graph["trials"] == {"source data", "priors"}
    assert "target data" in graph["experiments"]
    assert graph["scores"] == {"kernels", "priors"}


def test_arrows_that_others_imply_are_left_out(graph):
    assert reduced({"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}}) == {
        "a": set(),
        "b": {"a"},
        "c": {"b"},
        "d": {"c"},
    }
    expected = {stage: {before} for before, stage in pairwise(CHAIN)}
    expected |= {"source data": set(), "target data": set(), "scores": {"priors"}}
    expected["experiments"] = {"tuning", "target data"}
    expected["report"] = {"experiments", "scores"}
    assert reduced(graph) == expected


@pytest.mark.parametrize("overlay", [None, "everything", "mnist-cpu"])
def test_boxes_do_not_overlap_and_arrows_go_down(overlay):
    files = [] if overlay is None else [stage_figure.ROOT / "config" / f"{overlay}.yaml"]
    graph = reduced(stages(Plan(read_config(files))))
    places = layout(graph)
    assert len(set(places.values())) == len(places)
    assert all(places[one][1] < places[stage][1] for stage in graph for one in graph[stage])


def test_it_is_a_picture_as_wide_as_a_phone(graph):
    root = ElementTree.fromstring(figure(graph))
    width, height = float(root.get("width")), float(root.get("height"))
    assert width <= 420
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y = float(box.get("x", 0)), float(box.get("y", 0))
        assert 0 <= x <= width - float(box.get("width"))
        assert 0 <= y <= height - float(box.get("height"))
