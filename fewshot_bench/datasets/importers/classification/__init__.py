"""Full-size classification datasets, one file each: their splits share their classes."""
