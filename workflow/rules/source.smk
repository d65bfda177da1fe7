# Source networks: each job trains a shard of them.


rule source:
    input:
        dataset=plan.dataset_file(plan.config.data.source),
    output:
        nets=f"{paths.NETS}.safetensors",
        table=f"{paths.NETS}.csv",
        seconds=f"{paths.NETS}.seconds.tsv",
        manifest=f"{paths.NETS}.manifest.json",
    log:
        f"{paths.NETS}.log",
    benchmark:
        f"{paths.NETS}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        spec=lambda wildcards, threads: plan.spec(wildcards.version),
    script:
        "../scripts/train_source.py"
