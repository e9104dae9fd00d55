"""What images exist: registry, importers, the canonical store, fingerprints."""
