# Tuning: the settings of one method, chosen from its trials, which are cells of the experiment on other data.


rule tuning:
    input:
        trials=lambda wildcards: plan.trial_cells(wildcards.experiment, wildcards.method),
    output:
        table=f"{paths.TUNING}.csv",
        chosen=f"{paths.TUNING}.json",
        manifest=f"{paths.TUNING}.manifest.json",
    log:
        f"{paths.TUNING}.log",
    benchmark:
        f"{paths.TUNING}.benchmark.tsv"
    priority: 1
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        spec=lambda wildcards, threads: plan.spec(wildcards.version),
    script:
        "../scripts/choose_settings.py"
