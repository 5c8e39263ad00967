"""Explanations by hiding parts of the image."""
