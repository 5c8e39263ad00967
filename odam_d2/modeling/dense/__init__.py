"""Dense detectors."""
