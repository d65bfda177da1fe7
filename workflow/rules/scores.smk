# Scores: all priors of one kernel size on the same held-out kernels.


rule scores:
    input:
        unpack(lambda wildcards: plan.score_inputs(int(wildcards.size))),
    output:
        scores="results/scores/{version}/scores-{size}x{size}.csv",
        manifest="results/scores/{version}/scores-{size}x{size}.manifest.json",
    log:
        "results/scores/{version}/scores-{size}x{size}.log",
    benchmark:
        "results/scores/{version}/scores-{size}x{size}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        spec=lambda wildcards: plan.spec(wildcards.version),
    script:
        "../scripts/score_priors.py"
