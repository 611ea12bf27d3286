"""Parts of the command `infer`: its options, and a run and the one before it."""
