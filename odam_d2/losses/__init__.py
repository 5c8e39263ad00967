"""Training losses; they need torch alone."""

from odam_d2.losses.margin import margin_loss
from odam_d2.losses.odam_train import PairLosses, odam_train_losses

__all__ = ["PairLosses", "margin_loss", "odam_train_losses"]
