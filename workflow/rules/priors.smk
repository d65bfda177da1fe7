# Priors: one is fitted to the kernels of one size.


rule prior:
    input:
        kernels=lambda wildcards: plan.kernels_file(int(wildcards.size)),
    output:
        prior="results/priors/{version}/{name}-{size}x{size}.safetensors",
        history="results/priors/{version}/{name}-{size}x{size}.csv",
        manifest="results/priors/{version}/{name}-{size}x{size}.manifest.json",
    log:
        "results/priors/{version}/{name}-{size}x{size}.log",
    benchmark:
        "results/priors/{version}/{name}-{size}x{size}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        spec=lambda wildcards: plan.spec(wildcards.version),
    script:
        "../scripts/fit_prior.py"
