# track: hand what is in data/ to DVC; track_runs: the finished runs of the grid. No part of `all`: each is one serial step
# after the jobs, `snakemake --cores 1 track`.
localrules:
    track,
    track_runs,


rule track:
    """Verify every artefact, then add each to DVC, with a pointer of its own beside it."""
    log:
        "logs/track.log",
    params:
        folders=tracked,
    shell:
        "( command -v dvc > /dev/null || {{ echo 'dvc is not installed here: pip install dvc'; exit 1; }}; "
        "set -- {params.folders:q}; [ $# -gt 0 ] || {{ echo 'nothing in data/ to track yet'; exit 1; }}; "
        'clipkd verify data && dvc add --no-relink "$@" ) 2>&1 | tee {log:q}'


rule track_runs:
    """Verify the finished runs of the grid, then add each to DVC, with a pointer of its own beside it."""
    input:
        all_runs,
    log:
        "logs/track_runs.log",
    params:
        folders=[f"{RUNS}/{cell.folder}" for cell in CELLS],
    shell:
        "( command -v dvc > /dev/null || {{ echo 'dvc is not installed here: pip install dvc'; exit 1; }}; "
        "clipkd verify results/runs && dvc add --no-relink {params.folders:q} ) 2>&1 | tee {log:q}"
