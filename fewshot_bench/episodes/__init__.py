"""Which images form a task: the sampler, protocols, lock files."""
