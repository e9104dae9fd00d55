"""Files, locks and text; private."""
