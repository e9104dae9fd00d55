"""Fine-tuning a backbone on each support set, many episodes at once."""
