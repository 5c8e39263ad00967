"""The head of a dense detector, run backward in patches."""
