"""What a stream remembers. Independent of the model."""
