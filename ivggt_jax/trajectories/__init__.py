"""Camera trajectories: reading files and tables of them, and aligning one to another. In float64."""
