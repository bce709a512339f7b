# The workflow is in workflow/; this file lets `snakemake` find it from the project's root.
include: "workflow/Snakefile"


# An include hands over rules, not the default target.
workflow.default_target = "all"
