"""A detector whose outputs carry the observation they come from, for evaluators that ask further questions."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from odam_d2.modeling.explainable import ExplainableDetector


class ObservingModel(nn.Module):
    """A model for Detectron2's ``inference_on_dataset``: its detections, and what explains them, from one forward pass.

    Args:
        detector: runs; it is left as it was found.
        layers: at which detections will be explained.
    """

    def __init__(self, detector: ExplainableDetector, layers: Sequence[str] = ("fpn",)):
        super().__init__()
        self.detector, self.layers = detector, tuple(layers)

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect, and remember.

        Returns:
            for each image ``instances``, with the ``place`` of each; ``observation``, that of the whole batch; and
            ``image``, its number in it.
        """
        observation = self.detector.observe(batched_inputs, self.layers)
        return [
            {"instances": found, "observation": observation, "image": number}
            for number, found in enumerate(observation.detections())
        ]
