"""Questionnaires about which maps people trust, and what comes of the answers (section 4.3)."""
