"""What may be asked for: the config, its cells, their paths and identities. No torch here."""
