"""StarCraft micromanagement: the game behind oxwhirl's SMAC, and SMAClite."""
