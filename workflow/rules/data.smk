# Data sets: one verified file each, with training and test tensors.


rule data:
    output:
        dataset=f"{paths.DATA}.safetensors",
        manifest=f"{paths.DATA}.manifest.json",
    log:
        f"{paths.DATA}.log",
    benchmark:
        f"{paths.DATA}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        spec=lambda wildcards, threads: plan.spec(wildcards.version),
    script:
        "../scripts/build_data.py"
