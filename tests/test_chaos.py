"""A run that is killed and restarted produces the same bytes (long form: tests/chaos.py)."""

import signal

import chaos
import pytest

KILLS = [
    ("few_shot", "l2_xavier_*", "job", signal.SIGTERM),
    ("image_vae", "xavier_*", "run", signal.SIGKILL),
]


@pytest.mark.parametrize(("stage", "job", "victim", "number"), KILLS, ids=str)
def test_a_killed_run_ends_in_the_same_bytes(smoke_run, stage, job, victim, number):
    manifest = next(smoke_run.glob(f"results/{stage}/*/{job}.manifest.json"))
    kill = chaos.Kill(manifest.relative_to(smoke_run), victim, number, after=0.5)
    found = chaos.survive(smoke_run, kill)
    assert found["artifacts"] > 50
    assert (found["different"], found["left"]) == ([], [])


def test_kills_are_spread_over_stages_signals_and_victims(smoke_run):
    found = list(chaos.kills(smoke_run, 50, seed=0))
    combinations = {(kill.manifest.parts[1], kill.victim, kill.signal) for kill in found}
    assert len(combinations) == len(chaos.LONG) * len(chaos.VICTIMS) * len(chaos.SIGNALS)
    assert [kill.signal for kill in found].count(signal.SIGKILL) == 25
