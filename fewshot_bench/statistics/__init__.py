"""Pure functions from arrays of outcomes to numbers: intervals and paired tests."""
