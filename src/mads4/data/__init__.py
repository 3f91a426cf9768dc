"""Recorded episodes: files, data sets in memory, batches, recording."""
