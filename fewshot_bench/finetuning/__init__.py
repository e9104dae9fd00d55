"""Learning on support sets: fine-tuning a backbone for many episodes at once."""
