"""Error modes of a detector and what explains them: from detections to a table, numbers and a page."""
