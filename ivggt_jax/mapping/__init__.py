"""One map of an endless stream: submaps, the loops between them, and the graph that joins them."""
