"""Evaluation of predictions: measures, alignments, benchmark readers, and reports. NumPy and SciPy only."""
