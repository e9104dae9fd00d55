"""Support set to predictions: one file per method, all batched over episodes."""
