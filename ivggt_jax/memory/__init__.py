"""What a stream remembers; knows no model."""
