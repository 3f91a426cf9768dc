"""Training: losses, trainers, and the loop that drives them."""
