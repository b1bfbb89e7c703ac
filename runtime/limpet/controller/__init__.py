"""Everything for people: the commands beside `run`. The agent imports nothing of it."""
