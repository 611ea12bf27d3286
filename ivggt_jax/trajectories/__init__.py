"""Camera trajectories: files and tables of them, and bringing one onto another. In float64."""
