"""What is measured of embeddings, for people: stored cards, tables, figures, and how measures follow accuracy."""
