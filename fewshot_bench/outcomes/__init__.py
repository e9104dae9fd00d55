"""What happened: one row per episode, kept on disk in append-only parts."""
