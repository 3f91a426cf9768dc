"""Behavior policies: experts, random actions, and noise for recording data with them."""
