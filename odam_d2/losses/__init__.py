"""Training losses; they need torch alone."""

from odam_d2.losses.margin import margin_loss

__all__ = ["margin_loss"]
