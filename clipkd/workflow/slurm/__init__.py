"""SLURM, asked by its own commands: what the site offers, what would hang, which jobs are left. No torch here."""
