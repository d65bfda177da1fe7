"""Runs side by side in one folder: which must wait for which."""

from pathlib import Path

from dwp.claims import claim
from dwp.plan import Plan


def wanted(plan: Plan, workflow: object) -> list[str]:
    """Return every file of a configuration, once no other run is making any of them.

    Snakemake would end a run that shares such files with another. It asks for its targets
    before it looks at what is there and locks, so this is the moment to wait. Dry runs,
    reports and the like wait for nobody.
    """
    files = plan.files()
    if workflow.execution_settings and workflow.is_main_process and not workflow.dryrun:
        claim(files)
        # The run that ended took the folder along.
        Path(workflow.persistence.path, "locks").mkdir(exist_ok=True)
    return files
