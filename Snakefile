# From raw images to the figures of The Deep Weight Prior (ICLR 2019).
# What to run stands in config.yaml; which files that means, dwp/pipeline/plan.py knows.

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.10")

sys.path.insert(0, workflow.basedir)

from dwp.pipeline.config import validate
from dwp.report.catalogue import check_captions
from dwp.pipeline.environment import MEMORY
from dwp.errors import InputError
from dwp.pipeline.latest_links import link_latest
from dwp.pipeline.plan import Plan
from dwp.pipeline.scheduling import judge_by_manifests, wanted


for name, value in MEMORY.items():
    os.environ.setdefault(name, value)


configfile: f"{workflow.basedir}/config.yaml"


try:
    validate(config, f"{workflow.basedir}/workflow/schemas/config.schema.yaml")
    plan = Plan(config)
    captions = ["workflow.rst", *(item.caption for item in plan.report_files())]
    check_captions(captions, f"{workflow.basedir}/workflow/report")
except InputError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    version="[0-9a-f]{8}",
    shard=r"\d+-\d+",
    size=r"\d+",


report: "workflow/report/workflow.rst"


include: "workflow/rules/data.smk"
include: "workflow/rules/source.smk"
include: "workflow/rules/kernels.smk"
include: "workflow/rules/priors.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/experiments.smk"
include: "workflow/rules/report.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        lambda wildcards: wanted(plan, workflow),


judge_by_manifests(plan, workflow)


onerror:
    if any("SIGKILL" in Path(file).read_text() for file in log):
        print("A job was killed from outside (SIGKILL), as happens when memory runs out: let fewer jobs run")
        print("at a time (--cores, --jobs), or give each more. Finished work is kept; start again to go on.")


onsuccess:
    link_latest(plan.named)
    if Path(plan.report.path("manifest.json")).exists():
        print(f"Tables and figures: results/latest/report  (results/report/{plan.report.version})")
    print("Kernels, priors and rows of the experiments: results/latest/<stage>")
    print("All in one page: snakemake --report report.html")
