"""Parts of the command `infer`: its options, resuming, and reporting."""
