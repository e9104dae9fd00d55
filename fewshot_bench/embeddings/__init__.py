"""What embeddings look like: isotropy, similarities, probes."""
