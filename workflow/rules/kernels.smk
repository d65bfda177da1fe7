# Kernels of one size: collected from all source networks, pruned, split and stored.


rule kernels:
    input:
        files=plan.kernels_from(),
    output:
        store=f"{paths.KERNELS}.h5",
        manifest=f"{paths.KERNELS}.manifest.json",
    log:
        f"{paths.KERNELS}.log",
    benchmark:
        f"{paths.KERNELS}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        spec=lambda wildcards, threads: plan.spec(wildcards.version),
    script:
        "../scripts/collect_kernels.py"
