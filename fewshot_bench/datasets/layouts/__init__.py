"""One file per layout in circulation; each yields the images of a dataset, none decides their order."""
