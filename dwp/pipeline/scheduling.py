"""Targets and reruns: waiting for concurrent runs, and forcing the jobs of stale artifacts."""

import logging
from pathlib import Path
from typing import Any

from snakemake.settings.types import RerunTrigger

from dwp.errors import InputError
from dwp.pipeline import paths
from dwp.pipeline.claims import claim
from dwp.pipeline.plan import Plan
from dwp.pipeline.times import settle

logger = logging.getLogger("dwp")

SHOWN = 6  # number of stale versions that a warning names


def refuse_prefix(workflow: Any) -> None:
    """Refuse to be a module with a path prefix, because manifests are read from `results/`.

    Raises:
        InputError: the other workflow's `module` has `prefix` or `replace_prefix`.
    """
    modifier = workflow.modifier.path_modifier
    if modifier.prefix or modifier.modifies_prefixes:
        raise InputError(
            "module: prefix and replace_prefix are not supported; "
            "results lie in results/ of the working directory (--directory)"
        )


def targets_after_claiming(plan: Plan, workflow: Any) -> list[str]:
    """Return every file of a configuration, after waiting until no concurrent run is making any of them.

    Snakemake would stop a run that shares such files with another. It evaluates its targets
    before it checks existing files and locks, so this is the moment to wait. Dry runs,
    reports and the like do not wait.
    """
    files = plan.files()
    if workflow.execution_settings and workflow.is_main_process and not workflow.dryrun:
        by_manifest = RerunTrigger.PARAMS in workflow.rerun_triggers
        claim(files, lambda files: by_manifest and bool(plan.stale(files)))
        plan.refuse_collisions()  # with what the run that ended has made
        # The run that ended removed the folder.
        Path(workflow.persistence.path, "locks").mkdir(exist_ok=True)
    return files


def rerun_stale_artifacts(plan: Plan, workflow: Any) -> None:
    """Rerun the jobs whose manifest does not match the plan, and no other whose files exist.

    Snakemake compares parameters with a record in `.snakemake`. Copied results come without it, and
    Snakemake would then compare nothing; the manifests are copied with the results. Nor do times count that
    differ from the manifests, see `dwp.pipeline.times`. In the rules, `params`
    is also a function of `threads`, because Snakemake leaves such parameters out of its comparison.
    """
    forced: list[str] | None = None

    def force_stale(wildcards: object) -> list[str]:
        """Add the stale files to those whose jobs are forced to run; return no file."""
        nonlocal forced
        if forced is None:
            forced = _stale(plan, workflow)
            # Not the setting `forcerun`, which would turn them into targets.
            workflow.dag.forcefiles.update(forced)
        return []

    # The rules of this workflow only, which may be a module of another.
    for rule in workflow.modifier.rules:
        # For any target, Snakemake calls input functions before it decides what to run.
        rule.set_input(force_stale)


def _stale(plan: Plan, workflow: Any) -> list[str]:
    if not workflow.is_main_process or RerunTrigger.PARAMS not in workflow.rerun_triggers:
        return []
    files = plan.files()
    manifests = [file for file in files if file.endswith(paths.MANIFEST)]
    stale = [*plan.stale(files), *settle(manifests, plan.is_current)]
    if stale:
        versions = list(dict.fromkeys(map(paths.label, stale)))
        more = f" and {len(versions) - SHOWN} more" if len(versions) > SHOWN else ""
        shown = ", ".join(versions[:SHOWN]) + more
        logger.warning("Stale, by other code, settings or inputs, or a damaged manifest: %s", shown)
    return stale
