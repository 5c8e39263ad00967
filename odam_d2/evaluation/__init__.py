"""Metrics, and the evaluators that run them over datasets."""
