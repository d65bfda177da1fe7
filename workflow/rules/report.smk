# Report: all tables and figures of the configuration.


rule report:
    input:
        unpack(lambda wildcards: plan.report_inputs()),
    output:
        [
            report(
                plan.report.path(item.path),
                caption=f"../report/{item.caption}",
                category=item.category,
                labels=item.labels,
            )
            for item in plan.report_files()
        ],
        manifest=plan.report.path(paths.MANIFEST),
    log:
        plan.report.path("report.log"),
    benchmark:
        plan.report.path("report.benchmark.tsv")
    conda:
        "../../envs/dwp.yaml"
    threads: config["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        spec=lambda wildcards, threads: plan.report.spec,
    script:
        "../scripts/make_report.py"
