"""Image to embedding: the networks, their weights, and the cache of what they gave."""
