"""StarCraft micromanagement: SMAC (with StarCraft II) and SMAClite (without)."""
