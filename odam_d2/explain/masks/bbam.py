"""BBAM (Lee et al., CVPR 2021): the smallest part of an image from which a two-stage detector says the same.

For one detection, made at a region (proposal) R with box B, a mask m of few cells with values in [0,1] is enlarged
bilinearly to the image I, whose hidden part shows a constant colour or a blurred image mu,

    I_m = M o I + (1 - M) o mu,  M = enlarged m,

and is optimised, starting from 1 on every cell that R or B overlaps and 0 elsewhere, to minimise

    lambda |m|_1 + tau TV(m) + 1/2 mean_k |t_k(I_m) - t_k(I)| + 1/2 |p_c(I_m) - p_c(I)|,

where p_c is the probability of the detection's class and t = (dx, dy, dw, dh) are the four values of its box
regression, both said of the same region R, which stays fixed whatever is hidden. Adam takes 300 steps of rate 0.02,
after each of which m is cut to [0,1]. A cell covers s x s pixels of the network's input,

    s = 16 + 48 sqrt(box area / image area), rounded,

so that a mask has 16 to 64 pixels a cell, and no mask can paint a detail that fools the detector.

|m|_1 and TV are sums over the mask's cells: with lambda = 0.07 a cell costs as much as 0.14 of probability. TV is of
the third power of differences and tau = 0.001, as in the authors' code, which counts diagonal neighbours as well: it
only rounds off what is left open, whereas a weight of 1 would leave the mask as it begins, without a single edge.

One term may be left out: without the last but one, m keeps what the class head needs; without the last, what the box
head needs; of the box head, a single side can be asked about, whose displacement then takes the place of t.

Shapes: (gh,gw) mask, (h,w) network input before padding, S stages of the box head. Boxes are XYXY in pixels of the
network's input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from odam_d2.explain.gradients import loss_gradient
from odam_d2.explain.targets import SIDES
from odam_d2.structures import Size
from odam_d2.structures.heat_maps import bilinear_weights, gaussian_blur

# Pixels a cell for a box without area, and how much more for one that fills the image.
LEAST_STRIDE, MORE_STRIDE = 16, 48
# Weights of the four values of a box regression, Fast R-CNN's and of most since; a cascade's later stages have larger
# ones, so that their boxes weigh less here.
REGRESSION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# Standard deviation in pixels of the blur that may stand in for what is hidden.
BLUR = 10.0
# (steps done, steps in all), after every step.
Progress = Callable[[int, int], None]


class Answer(NamedTuple):
    """What a detector says about one region and one class.

    Attributes:
        probability: of the class, a scalar.
        box: of the class, not clipped, (4,).
    """

    probability: Tensor
    box: Tensor


# Image (3,h,w), with graph to its pixels -> what the detector says about the region.
Ask = Callable[[Tensor], Answer]


@dataclass(frozen=True)
class BBAM:
    """Explains one detection by a mask: ``bbam(ask, image, outside, region, box) -> (gh,gw)``.

    Args:
        steps: of Adam, at least 1.
        rate: its learning rate.
        sparsity: lambda, what showing a cell costs.
        smoothness: tau, what differences between neighbours cost.

    Raises:
        ValueError: a value out of its range.
    """

    steps: int = 300
    rate: float = 0.02
    sparsity: float = 0.07
    smoothness: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least 1 is needed")
        if not self.rate > 0:
            raise ValueError(f"rate is {self.rate}; it must be more than 0")
        for name in ("sparsity", "smoothness"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")

    def __call__(
        self,
        ask: Ask,
        image: Tensor,
        outside: Tensor,
        region: Tensor,
        box: Tensor,
        target: str = "combined",
        progress: Progress | None = None,
    ) -> Tensor:
        """The mask of one detection.

        Args:
            ask: the detector at the detection's region and class.
            image: I, (3,h,w) pixels as ``ask`` wants them, on its device.
            outside: mu, whatever can be broadcast to the image.
            region: R, that the last stage pools, (4,).
            box: B, of the detection, (4,).
            target: which terms keep the detection: ``class_score``, the class head's; a side such as ``x1``, its own;
                ``combined``, both heads'.
            progress: called with (steps done, steps in all) after every step.

        Returns:
            m, (gh,gw) in [0,1], of :func:`mask_stride` pixels a cell.

        Raises:
            ValueError: the detector's answer is not finite.
        """
        size = (int(image.shape[1]), int(image.shape[2]))
        with torch.no_grad():
            before = ask(image)
        stride = mask_stride(box, size)
        mask = initial_mask(torch.stack([region, box.detach()]), size, stride).to(image).requires_grad_()
        optimizer = torch.optim.Adam([mask], lr=self.rate)
        for step in range(self.steps):
            with torch.enable_grad():
                shown = enlarge_mask(mask, size, stride)
                after = ask(shown * image + (1 - shown) * outside)
                loss = self.loss(mask, before, after, region, target)
            if not torch.isfinite(loss):
                raise ValueError("what the detector says about a masked image is not finite; check the weights")
            mask.grad = loss_gradient(loss, mask)
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
            if progress is not None:
                progress(step + 1, self.steps)
        return mask.detach()

    def loss(self, mask: Tensor, before: Answer, after: Answer, region: Tensor, target: str = "combined") -> Tensor:
        """What is minimised, a scalar.

        Args:
            mask: m, (gh,gw).
            before: what the detector says about the image.
            after: what it says about the masked one.
            region: see :meth:`__call__`.
            target: likewise.
        """
        price = self.sparsity * mask.abs().sum() + self.smoothness * total_variation(mask)
        if target in SIDES:
            return price + side_change(before, after, region, target) / 2
        kept = (after.probability - before.probability).abs() / 2
        return price + kept + regression_change(before, after, region) / 2 if target == "combined" else price + kept


def mask_stride(box: Tensor, size: Size) -> int:
    """Side of a mask's cells in pixels: s = 16 + 48 sqrt(box area / image area), rounded.

    Args:
        box: (4,); what of it lies in the image counts.
        size: (h,w).
    """
    x1, y1, x2, y2 = _inside(box.detach(), size).tolist()
    return round(LEAST_STRIDE + MORE_STRIDE * ((x2 - x1) * (y2 - y1) / (size[0] * size[1])) ** 0.5)


def initial_mask(boxes: Tensor, size: Size, stride: int) -> Tensor:
    """1 on every cell that a box overlaps, 0 elsewhere.

    Args:
        boxes: (n,4).
        size: (h,w).
        stride: of the mask.

    Returns:
        (gh,gw) float32: ceil(h / stride) x ceil(w / stride) cells, of which (i,j) covers pixels
        ``[j * stride, (j + 1) * stride)`` of row ``[i * stride, ...)``.
    """
    mask = torch.zeros(-(-size[0] // stride), -(-size[1] // stride))
    for x1, y1, x2, y2 in _inside(boxes.detach().cpu(), size).tolist():
        inside = []
        for low, high, cells in ((y1, y2, mask.shape[0]), (x1, x2, mask.shape[1])):
            first = torch.arange(cells) * stride
            inside.append((first < high) & (first + stride > low))
        mask[inside[0][:, None] & inside[1]] = 1
    return mask


def enlarge_mask(mask: Tensor, size: Size, stride: int) -> Tensor:
    """The mask at every pixel, by linear interpolation between the centres of cells; with graph.

    Args:
        mask: (gh,gw).
        size: (h,w).
        stride: of the mask.

    Returns:
        (h,w).
    """
    rows, columns = (bilinear_weights(size[i], mask.shape[i], size[i] / stride, mask) for i in (0, 1))
    return rows @ mask @ columns.t()


def total_variation(mask: Tensor) -> Tensor:
    """TV(m): the sum of |difference|^3 over all vertical and all horizontal neighbours, a scalar.

    Args:
        mask: (gh,gw).
    """
    return mask.diff(dim=0).abs().pow(3).sum() + mask.diff(dim=1).abs().pow(3).sum()


def regression_values(box: Tensor, region: Tensor) -> Tensor:
    """What a Faster R-CNN's box head says, read from the box that it is decoded to, (4,).

    t = (10 (x - x_R) / w_R, 10 (y - y_R) / h_R, 5 log(w / w_R), 5 log(h / h_R)), with x and y of the centres.

    Args:
        box: (4,).
        region: R, (4,).
    """
    centre, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=1e-6)
    from_centre, from_side = (region[:2] + region[2:]) / 2, (region[2:] - region[:2]).clamp(min=1e-6)
    values = torch.cat([(centre - from_centre) / from_side, (side / from_side).log()])
    return values * values.new_tensor(REGRESSION_WEIGHTS)


def regression_change(before: Answer, after: Answer, region: Tensor) -> Tensor:
    """mean_k |t_k(I_m) - t_k(I)|, a scalar; arguments as in :meth:`BBAM.loss`."""
    return (regression_values(after.box, region) - regression_values(before.box, region)).abs().mean()


def side_change(before: Answer, after: Answer, region: Tensor, side: str) -> Tensor:
    """How far a side moves, 10 |x(I_m) - x(I)| / w_R or 10 |y(I_m) - y(I)| / h_R: as a centre counts in t; a scalar.

    Args:
        before: as in :meth:`BBAM.loss`, as is ``after``.
        after: see there.
        region: R, (4,).
        side: ``x1``, ``y1``, ``x2`` or ``y2``.
    """
    number = SIDES.index(side)
    length = (region[2:] - region[:2])[number % 2].clamp(min=1e-6)
    return REGRESSION_WEIGHTS[0] * (after.box[number] - before.box[number]).abs() / length


def blurred(image: Tensor, deviation: float = BLUR) -> Tensor:
    """The image convolved with a Gaussian, in which what lies beyond the border has no part.

    Args:
        image: (3,h,w).
        deviation: standard deviation in pixels.
    """
    sigma = image.new_full((len(image), 2), deviation)
    return gaussian_blur(image, sigma) / gaussian_blur(torch.ones_like(image), sigma)


def _inside(boxes: Tensor, size: Size) -> Tensor:
    """What of boxes lies in the image, (...,4)."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
