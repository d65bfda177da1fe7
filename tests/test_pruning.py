"""Pruning: thresholds, and the number of modes of the norms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwp.errors import InputError
from dwp.kernels import pruning


def choose(values, rule):
    return pruning.choose_threshold(pruning.histogram(values), rule)


def bimodal(seed, n=20_000, low=-0.7, high=-0.1, width=0.06, share=0.5):
    generator = np.random.default_rng(seed)
    small = generator.random(n) < share
    return 10 ** np.where(small, generator.normal(low, width, n), generator.normal(high, width, n))


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("width", [0.06, 0.15])
def test_otsu_against_brute_force(share, width):
    values = bimodal(0, width=width, share=share)
    edges = pruning.histogram(values).log10_edges
    logs = np.log10(np.maximum(values, 10 ** edges[0]))

    def between(edge):
        below, above = logs[logs < edge], logs[logs >= edge]
        return len(below) * len(above) * (below.mean() - above.mean()) ** 2

    best = max(edges[(logs.min() < edges) & (edges < logs.max())], key=between)
    chosen = np.log10(choose(values, "otsu"))
    assert between(chosen) == pytest.approx(between(best), rel=2e-3)


def test_otsu_takes_the_middle_of_a_gap():
    values = np.concatenate([np.full(900, 0.2), np.full(100, 0.8)])
    assert choose(values, "otsu") == pytest.approx(0.4, rel=0.03)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_valley_lies_between_two_modes(share):
    chosen = choose(bimodal(1, share=share), "valley")
    assert -0.7 + 3 * 0.06 < np.log10(chosen) < -0.1 - 3 * 0.06


def test_valley_refuses_a_single_mode():
    values = 10 ** np.random.default_rng(0).normal(-0.5, 0.1, 20_000)
    with pytest.raises(InputError, match=r"single mode.*give a number"):
        choose(values, "valley")


@pytest.mark.parametrize("rule", pruning.RULES)
@pytest.mark.parametrize("scale", [0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.7, 1.9, 2.3, 2.9, 100.0])
def test_thresholds_scale_with_the_norms_and_ignore_the_depth_of_the_tail(rule, scale):
    values = bimodal(2)
    chosen, small = choose(values, rule), values < 0.4
    tails = [np.where(small, values * 10.0**-depth, values) for depth in (2, 12)]
    deep = choose(tails[0], rule)
    # Within a bin of the histogram, 0.01 decades.
    assert choose(scale * values, rule) == pytest.approx(scale * chosen, rel=0.03)
    assert choose(scale * tails[0], rule) == pytest.approx(scale * deep, rel=0.03)
    assert choose(scale * tails[1], rule) == pytest.approx(scale * deep, rel=0.03)
    assert deep < 0.5


@pytest.mark.parametrize("rule", [0, 0.25, 3])
def test_a_number_is_taken_as_it_is(rule):
    assert choose(bimodal(0), rule) == rule


def test_threshold_refusals():
    with pytest.raises(InputError, match="'median' is not known; use one of a number, otsu, valley"):
        choose(bimodal(0), "median")
    for rule in pruning.RULES:
        with pytest.raises(InputError, match="every kernel is zero"):
            choose(np.zeros(5), rule)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=50))
def test_the_histogram_counts_every_norm(values):
    found = pruning.histogram(np.array(values))
    assert found.counts.sum() == len(values)
    assert len(found.log10_edges) == len(found.counts) + 1 == len(found.valley) + 1
    # Each norm of the inner bins is within its edges.
    inner = found.log10_edges[1:-1]
    if len(inner) > 1:
        logs = np.log10(values)
        expected = np.histogram(logs, inner)[0]
        # Rounding puts norms at an edge on either side of it.
        at_edges = (np.abs(logs[:, None] - inner).min(1) < 1e-9).sum()
        assert np.abs(np.cumsum(found.counts[1:-1] - expected)).max() <= at_edges


# One mode or two

UNIMODAL = {
    "lognormal": lambda generator, n: generator.lognormal(size=n),
    "normal": lambda generator, n: np.abs(generator.normal(1, 0.2, n)),
    "half-normal": lambda generator, n: np.abs(generator.normal(size=n)),
    "exponential": lambda generator, n: generator.exponential(size=n),
    "uniform": lambda generator, n: generator.uniform(size=n),
}


def two_modes(seed, n, share, width):
    """Norms around 0.2 and, a share of them, around 1; the width in decades."""
    generator = np.random.default_rng(seed)
    large = generator.random(n) < share
    return 10 ** np.where(large, generator.normal(0, width, n), generator.normal(np.log10(0.2), width, n))


@pytest.mark.parametrize(("n", "runs"), [(500, 400), (5_000, 100), (20_000, 40), (100_000, 20)])
@pytest.mark.parametrize("distribution", list(UNIMODAL))
def test_one_mode_is_not_taken_for_two(distribution, n, runs):
    generator = np.random.default_rng(0)
    samples = (UNIMODAL[distribution](generator, n) for _ in range(runs))
    # None of them all; in 2,000 runs at n = 500 there was none either.
    assert all(pruning.histogram(values).modes == 1 for values in samples)


@pytest.mark.parametrize(
    ("n", "share", "width", "power"),
    [
        (500, 0.5, 0.15, 1.0),
        (500, 0.08, 0.06, 1.0),
        (500, 0.08, 0.1, 0.85),
        (5_000, 0.5, 0.15, 1.0),
        (5_000, 0.08, 0.1, 1.0),
        (5_000, 0.08, 0.15, 0.7),  # only just half as dense between them
        (5_000, 0.008, 0.06, 1.0),
        (20_000, 0.5, 0.15, 1.0),
        (20_000, 0.08, 0.1, 1.0),
        (20_000, 0.008, 0.1, 1.0),
        (100_000, 0.08, 0.15, 0.9),
        (100_000, 0.008, 0.1, 1.0),
    ],
)
def test_two_modes_are_found_and_kept_apart(n, share, width, power):
    runs = [two_modes(seed, n, share, width) for seed in range(40)]
    found = [pruning.histogram(values) for values in runs]
    assert np.mean([one.modes == 2 for one in found]) >= power
    for one in found:
        for rule in pruning.RULES if one.modes == 2 else ():
            assert 0.2 < pruning.choose_threshold(one, rule) < 1.0
    for values, one in zip(runs, found, strict=True):
        if one.modes == 2 and width <= 0.1:
            # Both rules keep the small mode, and little of the other.
            for rule in pruning.RULES:
                kept = np.mean(values >= pruning.choose_threshold(one, rule))
                assert kept == pytest.approx(share, rel=0.25, abs=3 * np.sqrt(share / n))


@pytest.mark.parametrize(("n", "share"), [(25_600, 0.0864), (130_000, 0.0078)])
def test_as_few_kernels_as_the_authors_kept_are_found(n, share):
    generator = np.random.default_rng(0)
    kept = int(n * share)
    # The others are near zero, some of them exactly, at depths of many decades.
    near_zero = 10 ** np.concatenate(
        [generator.normal(-3, 0.5, n // 2), generator.normal(-7, 1, n // 2 - kept)]
    )
    used = 10 ** generator.normal(-0.1, 0.12, kept)
    values = np.concatenate([near_zero, np.zeros(n - len(near_zero) - kept), used])
    for rule in pruning.RULES:
        assert (values >= choose(values, rule)).sum() == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize("n", [200, 2_000, 20_000])
@pytest.mark.parametrize("outliers", [1, 5])
@pytest.mark.parametrize("size", [30.0, 1e30])
@pytest.mark.parametrize("rule", pruning.RULES)
def test_a_few_huge_kernels_decide_nothing(rule, n, outliers, size):
    values = two_modes(3, n, 0.5, 0.08)
    with_outliers = np.append(values, np.full(outliers, size))
    assert choose(with_outliers, rule) == pytest.approx(choose(values, rule), rel=0.05)
    one_mode = np.append(np.random.default_rng(0).lognormal(0, 0.3, n), np.full(outliers, size))
    assert pruning.histogram(one_mode).modes == 1


@pytest.mark.parametrize("rule", pruning.RULES)
def test_a_used_mode_of_more_than_a_decade_is_not_cut(rule):
    # As in the default run: 5×5 kernels in use have norms from 0.06 to 1.3, the others less than 0.01.
    generator = np.random.default_rng(0)
    used = 10 ** generator.normal(-0.65, 0.2, 2_000)
    values = np.concatenate([10 ** generator.normal(-2.65, 0.25, 5_000), used, [1.3]])
    assert np.log10(choose(values, rule)) == pytest.approx(-1.6, abs=0.35)


def test_otsu_answers_where_there_is_one_mode():
    values = UNIMODAL["lognormal"](np.random.default_rng(0), 20_000)
    assert choose(values, "otsu") == pytest.approx(1, rel=0.5)
    with pytest.raises(InputError, match="single mode"):
        choose(values, "valley")


# Extremes


@pytest.mark.parametrize("value", [1e-45, 1e-40, 0.1, 1.0, 3e38])
@pytest.mark.parametrize("n", [1, 2, 1_000])
def test_equal_norms_are_one_mode_and_all_kept(value, n):
    values = np.full(n, value, dtype=np.float32)
    found = pruning.histogram(values)
    assert (found.modes, found.counts.sum()) == (1, n)
    assert pruning.choose_threshold(found, "otsu") <= values[0]
    with pytest.raises(InputError, match="single mode"):
        pruning.choose_threshold(found, "valley")


@pytest.mark.parametrize("small", [0.0, 1e-45, 1e-30])
@pytest.mark.parametrize("rule", pruning.RULES)
def test_zeros_and_denormals_are_a_mode(rule, small):
    values = np.array([small] * 300 + [1.0] * 100, dtype=np.float32)
    assert pruning.histogram(values).modes == 2
    assert 1e-2 < choose(values, rule) < 1
