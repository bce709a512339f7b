"""Ground: errors, fingerprints, artefacts, locks, downloads. Knows nothing of distillation."""
