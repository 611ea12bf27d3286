"""Training data: batches of recorded clips, labelled or not, and of synthetic ones, by step number."""
