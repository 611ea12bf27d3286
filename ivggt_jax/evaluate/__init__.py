"""How good a prediction is: measures, alignments, readers of benchmark data sets, and reports. NumPy and SciPy only."""
