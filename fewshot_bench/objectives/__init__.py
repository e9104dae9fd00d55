"""What a training step minimises where it is more than a classification of the base classes."""
