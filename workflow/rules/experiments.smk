# Experiments: one method at one setting with a shard of seeds is one job; of those that train
# nothing, one method at all settings ("settings-all").


rule experiment:
    input:
        unpack(lambda wildcards: plan.cell_inputs(wildcards.version, wildcards.shard)),
    output:
        rows="results/{experiment}/{version}/{method}_{axis}-{setting}_seeds-{shard}.csv",
        manifest="results/{experiment}/{version}/{method}_{axis}-{setting}_seeds-{shard}.manifest.json",
    log:
        "results/{experiment}/{version}/{method}_{axis}-{setting}_seeds-{shard}.log",
    benchmark:
        "results/{experiment}/{version}/{method}_{axis}-{setting}_seeds-{shard}.benchmark.tsv"
    wildcard_constraints:
        experiment="|".join(plan.config["experiments"]),
        setting=r"[\d.e+-]+|all",
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        spec=lambda wildcards: plan.spec(wildcards.version),
    script:
        "../scripts/run_experiment.py"
