# track: hand what is in data/ to DVC. No part of `all`: one serial step after the jobs, `snakemake --cores 1 track`.
localrules:
    track,


rule track:
    """Verify every artefact, then add each to DVC, with a pointer of its own beside it."""
    log:
        "logs/track.log",
    params:
        folders=tracked,
    shell:
        "( command -v dvc > /dev/null || {{ echo 'dvc is not installed here: pip install dvc'; exit 1; }}; "
        "clipkd verify data && dvc add --no-relink {params.folders:q} ) 2>&1 | tee {log:q}"
