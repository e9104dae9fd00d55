"""Who computes which chunk of episodes."""
