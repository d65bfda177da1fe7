# The workflow is workflow/Snakefile; from here, `snakemake` finds it. Unlike `include:`, this keeps its default target.
workflow.include("workflow/Snakefile", overwrite_default_target=True)
