"""What Snakemake has to run: targets that no concurrent run makes, and jobs whose artifacts are stale."""

import logging
from pathlib import Path
from typing import Any

from snakemake.settings.types import RerunTrigger

from dwp.errors import InputError
from dwp.pipeline import paths
from dwp.pipeline.plan import Plan
from dwp.pipeline.run_locks import lock

logger = logging.getLogger("dwp")

SHOWN = 6  # of the versions that are stale, so many are named


def refuse_prefix(workflow: Any) -> None:
    """Refuse to be a module with another prefix than `results/`, where the manifests are looked for.

    Raises:
        InputError: the other workflow's `module` has a prefix or replaces one.
    """
    modifier = workflow.modifier.path_modifier
    if modifier.prefix or modifier.modifies_prefixes:
        raise InputError(
            "module: prefix and replace_prefix are not supported; "
            "results lie in results/ of the working directory (--directory)"
        )


def targets_after_locking(plan: Plan, workflow: Any) -> list[str]:
    """Return every file of a configuration, once no concurrent run is making any of them.

    Snakemake would end a run that shares such files with another. It asks for its targets
    before it looks at what is there and locks, so this is the moment to wait. Dry runs,
    reports and the like wait for nobody.
    """
    files = plan.files()
    if workflow.execution_settings and workflow.is_main_process and not workflow.dryrun:
        by_manifest = RerunTrigger.PARAMS in workflow.rerun_triggers
        lock(files, lambda files: by_manifest and bool(plan.stale(files)))
        # The run that ended took the folder along.
        Path(workflow.persistence.path, "locks").mkdir(exist_ok=True)
    return files


def rerun_stale_artifacts(plan: Plan, workflow: Any) -> None:
    """Have a job run again where its manifest does not say what the plan does.

    Snakemake compares parameters with a record that it keeps in `.snakemake`; results that were
    copied come without, and then it would compare nothing. The manifests are beside the results.
    In the rules, `params` is a function of `threads` too, since Snakemake leaves those out of its comparison.
    """
    forced: list[str] | None = None

    def force_stale(wildcards: object) -> list[str]:
        """Put what is stale among the files whose jobs are forced to run; return no file."""
        nonlocal forced
        if forced is None:
            forced = _stale(plan, workflow)
            # Not the setting `forcerun`, which would make targets of them.
            workflow.dag.forcefiles.update(forced)
        return []

    # Those of this workflow, which may be a module of another.
    for rule in workflow.modifier.rules:
        # An input function is asked before Snakemake decides what to run, whatever the targets are.
        rule.set_input(force_stale)


def _stale(plan: Plan, workflow: Any) -> list[str]:
    if not workflow.is_main_process or RerunTrigger.PARAMS not in workflow.rerun_triggers:
        return []
    stale = plan.stale(plan.files())
    if stale:
        versions = list(dict.fromkeys(map(paths.label, stale)))
        more = f" and {len(versions) - SHOWN} more" if len(versions) > SHOWN else ""
        shown = ", ".join(versions[:SHOWN]) + more
        logger.warning("Stale, by other code or settings or a damaged manifest: %s", shown)
    return stale
