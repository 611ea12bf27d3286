"""A server that follows cameras while they run: one model, one compiled step, a slot of the batch for each client."""
