# Priors: each job fits one prior to the kernels of one size.


rule prior:
    input:
        kernels=lambda wildcards: plan.kernels_file(int(wildcards.size)),
    output:
        prior=f"{paths.PRIOR}.safetensors",
        history=f"{paths.PRIOR}.csv",
        manifest=f"{paths.PRIOR}.manifest.json",
    log:
        f"{paths.PRIOR}.log",
    benchmark:
        f"{paths.PRIOR}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        spec=lambda wildcards, threads: plan.spec(wildcards.version),
    script:
        "../scripts/fit_prior.py"
