# Experiments: each job runs one method at one setting on a shard of seeds. In experiments that train
# nothing, it runs one method at all settings ("settings-all").


rule experiment:
    input:
        unpack(lambda wildcards: plan.cell_inputs(wildcards.version, wildcards.shard)),
    output:
        rows=f"{paths.CELL}.csv",
        manifest=f"{paths.CELL}.manifest.json",
    log:
        f"{paths.CELL}.log",
    benchmark:
        f"{paths.CELL}.benchmark.tsv"
    wildcard_constraints:
        experiment="|".join(plan.config.experiments),
        axis="|".join(plan.axes),
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        spec=lambda wildcards, threads: plan.spec(wildcards.version),
    script:
        "../scripts/run_experiment.py"


# Trials of the tuning: the same jobs on other data. A rule of their own, so that `--until experiment` means
# the target's cells. They come first, since other jobs wait for what they choose.
use rule experiment as trial with:
    wildcard_constraints:
        experiment="|".join(plan.config.experiments),
        axis="|".join(plan.axes),
        version=plan.trial_versions,
    priority: 1


ruleorder: trial > experiment
