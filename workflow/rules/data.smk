# Data sets: each one verified file with train and test tensors.


rule data:
    output:
        dataset="results/data/{version}/{name}.safetensors",
        manifest="results/data/{version}/{name}.manifest.json",
    log:
        "results/data/{version}/{name}.log",
    benchmark:
        "results/data/{version}/{name}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        spec=lambda wildcards: plan.spec(wildcards.version),
    script:
        "../scripts/build_data.py"
