"""A server that follows cameras live: one model and one compiled step, with a slot of the batch for each client."""
