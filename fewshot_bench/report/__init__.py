"""Numbers to people: the leaderboard and the terminal tables."""
