"""Measures of embeddings for people: stored cards, tables, figures, and their correlation with accuracy."""
