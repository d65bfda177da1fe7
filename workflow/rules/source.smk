# Source networks: a shard of seeds in one job.


rule source:
    input:
        dataset=plan.dataset_file(plan.config["data"]["source"]),
    output:
        nets="results/source/{version}/nets-{shard}.safetensors",
        table="results/source/{version}/nets-{shard}.csv",
        seconds="results/source/{version}/nets-{shard}.seconds.tsv",
        manifest="results/source/{version}/nets-{shard}.manifest.json",
    log:
        "results/source/{version}/nets-{shard}.log",
    benchmark:
        "results/source/{version}/nets-{shard}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        spec=lambda wildcards: plan.spec(wildcards.version),
    script:
        "../scripts/train_source.py"
