"""Attention of transformers as explanation."""
