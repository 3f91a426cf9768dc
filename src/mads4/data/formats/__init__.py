"""Readers of other projects' data sets, one module for each layout."""
