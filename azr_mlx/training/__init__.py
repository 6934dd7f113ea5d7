"""Learning from experience: advantages, PPO, checkpoints, and the loop around them."""
