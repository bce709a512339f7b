"""What belongs to Snakemake and SLURM: resuming, job states, estimates, check-ups."""
