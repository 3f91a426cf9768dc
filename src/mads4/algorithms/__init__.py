"""What an algorithm learns by: losses, targets, controllers."""
