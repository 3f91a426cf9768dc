"""Pictures, tables and comparisons of runs, made from what their directories hold."""
