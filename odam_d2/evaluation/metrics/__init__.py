"""Measures of heat maps: pure functions, one family a file."""
