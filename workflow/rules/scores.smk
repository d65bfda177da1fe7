# Scores: log density of the same held-out kernels under each prior of one kernel size, and samples beside them.


rule scores:
    input:
        unpack(lambda wildcards: plan.score_inputs(int(wildcards.size))),
    output:
        scores=f"{paths.SCORES}.csv",
        samples=f"{paths.SCORES}.samples.csv",
        manifest=f"{paths.SCORES}.manifest.json",
    log:
        f"{paths.SCORES}.log",
    benchmark:
        f"{paths.SCORES}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        spec=lambda wildcards, threads: plan.spec(wildcards.version),
    script:
        "../scripts/score_priors.py"
