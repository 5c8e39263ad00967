"""People: where they look, what maps they trust, and how both are compared with a detector."""
