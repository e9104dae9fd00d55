"""Methods whose predictions use all queries of an episode together, and what several of them share."""
