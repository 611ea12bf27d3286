"""Camera, dense and track heads."""
