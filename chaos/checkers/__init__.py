"""What must not have happened: pure functions from histories to violations."""
