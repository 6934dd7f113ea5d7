"""Self-play: proposing tasks, solving them, and paying for both."""
