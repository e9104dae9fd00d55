"""Make the images of the built-in dataset glyphs anew; the package ships what came out."""
