"""Options that several commands share. They import without JAX, so that `--help` is fast."""
