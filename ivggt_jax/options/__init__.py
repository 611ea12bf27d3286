"""Options that commands share, importable in no time: `--help` needs no JAX."""
