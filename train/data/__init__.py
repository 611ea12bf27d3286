"""Training data: recorded clips, labelled or not, and synthetic ones, as batches by step."""
