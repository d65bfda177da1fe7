"""What a run has to make: its stale jobs, and the runs beside it in the folder that it must wait for."""

import logging
from pathlib import Path

from snakemake.settings.types import RerunTrigger

from dwp.pipeline.plan import Plan
from dwp.pipeline.run_locks import claim

logger = logging.getLogger("dwp")

SHOWN = 6  # of the versions that are stale, so many are named


def wanted(plan: Plan, workflow: object) -> list[str]:
    """Return every file of a configuration, once no other run is making any of them.

    Snakemake would end a run that shares such files with another. It asks for its targets
    before it looks at what is there and locks, so this is the moment to wait. Dry runs,
    reports and the like wait for nobody.
    """
    files = plan.files()
    if workflow.execution_settings and workflow.is_main_process and not workflow.dryrun:
        by_manifest = RerunTrigger.PARAMS in workflow.rerun_triggers
        claim(files, lambda files: by_manifest and bool(plan.stale(files)))
        # The run that ended took the folder along.
        Path(workflow.persistence.path, "locks").mkdir(exist_ok=True)
    return files


def judge_by_manifests(plan: Plan, workflow: object) -> None:
    """Have a job run again where its manifest does not say what the plan does.

    Snakemake compares parameters with a record that it keeps in `.snakemake`; results that were
    copied come without, and then it would compare nothing. The manifests are beside the results.
    """
    for rule in workflow.rules:
        # An input function is asked before Snakemake decides what to run, whatever the targets are.
        rule.set_input(lambda wildcards: _force_stale(plan, workflow))


def _force_stale(plan: Plan, workflow: object) -> list[str]:
    """Put what is stale among the files whose jobs are forced to run; return no file."""
    triggers = workflow.rerun_triggers
    if workflow.is_main_process and RerunTrigger.PARAMS in triggers:
        # In place of Snakemake's own comparison; asked again, for the next job, there is nothing to do.
        workflow.dag_settings.rerun_triggers = set(triggers) - {RerunTrigger.PARAMS}
        stale = plan.stale(plan.files())
        # Not the setting `forcerun`, which would make targets of them.
        workflow.dag.forcefiles.update(stale)
        if stale:
            versions = list(dict.fromkeys("/".join(Path(file).parts[1:3]) for file in stale))
            more = f" and {len(versions) - SHOWN} more" if len(versions) > SHOWN else ""
            shown = ", ".join(versions[:SHOWN]) + more
            logger.warning("Stale, by other code or settings or a damaged manifest: %s", shown)
    return []
