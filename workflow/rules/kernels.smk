# Kernels of one size: collected from all networks, pruned, split, stored.


rule kernels:
    input:
        files=plan.kernels_from(),
    output:
        store="results/kernels/{version}/kernels-{size}x{size}.h5",
        manifest="results/kernels/{version}/kernels-{size}x{size}.manifest.json",
    log:
        "results/kernels/{version}/kernels-{size}x{size}.log",
    benchmark:
        "results/kernels/{version}/kernels-{size}x{size}.benchmark.tsv"
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        spec=lambda wildcards: plan.spec(wildcards.version),
    script:
        "../scripts/collect_kernels.py"
