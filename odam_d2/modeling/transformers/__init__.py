"""Transformer detectors of Hugging Face's library (the extra ``transformers``)."""
