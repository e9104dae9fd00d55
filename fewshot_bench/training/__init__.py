"""Fine-tuning a backbone on the base split."""
