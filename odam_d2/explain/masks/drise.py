"""D-RISE (Petsiuk et al., CVPR 2021): a black box explained by hiding random parts of the image.

A detection is a vector of its box L, its class probabilities P and, where the detector has one, an objectness O. Random
masks M_i with values in [0,1] hide parts of the image I, the detector sees I o M_i, and every mask counts by what is
left of the detection among its proposals j:

    s(t, j) = IoU(L_t, L_j) * cos(P_t, P_j) * O_j,  w_i = max_j s(t, j),  S_t = 1 / (N p) sum_i w_i M_i.

The factor 1 / (N p), from RISE, makes up for the expected sum of the N masks, whose cells show the image with
probability p. So S_t(x) estimates the mean of w over the masks that show pixel x: it is between 0 and 1 but for
sampling noise, and where a pixel does not matter it is not 0 but the mean of all weights.

All detections of an image share the masks and the forward passes.

Shapes: D detections, R proposals, K classes, n images of a batch, (gh,gw) grid of a mask, (h,w) image. Boxes are XYXY
in pixels of the image given, which is the network's input before padding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from odam_d2.structures import Grid, HeatMaps, Size

# Two masks share their random numbers only if their seeds differ and one's number is larger than this.
_MASKS_A_SEED = 1_000_003


class Proposals(NamedTuple):
    """What a detector finds in one image; a plain tuple in this order does as well.

    Attributes:
        boxes: (R,4).
        class_vectors: probability of every class but background, (R,K).
        objectness: (R,) in [0,1], or None for a detector without one.
    """

    boxes: Tensor
    class_vectors: Tensor
    objectness: Tensor | None = None


# Images (n,3,h,w) -> the proposals of each.
Detect = Callable[[Tensor], Sequence[Proposals]]
# (masks done, masks in all), after every batch.
Progress = Callable[[int, int], None]


@dataclass(eq=False, repr=False)
class DRISEState:
    """How far a run has come. It is valid whenever it can be looked at, also after an exception or Ctrl-C.

    ``torch.save(state.state_dict(), path)`` keeps it; a new state that gets ``torch.load(path, weights_only=True)``
    by :meth:`load_state_dict` goes on from there.

    Args:
        sums: sum_i w_i M_i so far, (D,h,w) float32; None before the run.
        done: how many masks that is.
        boxes: the detections that are explained, (D,4).
        settings: the masks' seed, grid and probability.
    """

    sums: Tensor | None = None
    done: int = 0
    boxes: Tensor | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        maps = "not begun" if self.sums is None else f"maps {tuple(self.sums.shape)}"
        return f"DRISEState({self.done} masks done, {maps})"

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything, in types that ``torch.load`` reads with ``weights_only=True``."""
        sums = None if self.sums is None else self.sums.clone()
        return {"sums": sums, "done": self.done, "boxes": self.boxes, "settings": dict(self.settings)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            ValueError: something is missing.
        """
        names = self.state_dict().keys()
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"this is no state of D-RISE: it lacks {', '.join(missing)}")
        for name in names:
            value = state[name]
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)

    def begin(self, image: Tensor, boxes: Tensor, settings: dict[str, Any]) -> None:
        """Start, or check that going on makes sense.

        Args:
            image: (3,h,w).
            boxes: (D,4).
            settings: as in the constructor.

        Raises:
            ValueError: the state is of other detections, another image size or other masks.
        """
        shape = (len(boxes), *image.shape[1:])
        if self.sums is None:
            self.sums = torch.zeros(shape, device=image.device)
            self.boxes, self.settings = boxes.clone(), settings
            return
        if self.settings != settings:
            raise ValueError(f"the state was made with {self.settings}; it cannot go on with {settings}")
        if tuple(self.sums.shape) != shape:
            raise ValueError(f"the state has maps of shape {tuple(self.sums.shape)}; this run has {shape}")
        if not torch.equal(self.boxes.to(boxes), boxes):
            raise ValueError("the state is of detections with other boxes")
        self.sums = self.sums.to(image.device)


class DRISE:
    """Explains detections by masks: ``drise(detect, image, boxes, class_vectors) -> (D,h,w)``.

    Args:
        masks: N; the paper's 5000.
        grid: cells of a mask, (gh,gw).
        probability: p, that a cell shows the image, in (0,1].
        batch: masked images that ``detect`` gets at a time. Only so many masks exist at a time.
        seed: mask i depends on it and on i alone, not on ``batch`` or the device. At least 0.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        masks: int = 5000,
        grid: tuple[int, int] = (16, 16),
        probability: float = 0.5,
        batch: int = 8,
        seed: int = 0,
    ):
        for name, value, least in (("masks", masks, 1), ("batch", batch, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name} is {value}; at least {least} is needed")
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"grid is {tuple(grid)}; it needs two sides of at least 1 cell")
        if not 0 < probability <= 1:
            raise ValueError(f"probability is {probability}; it must be in (0,1]")
        self.masks = masks
        self.grid = (int(grid[0]), int(grid[1]))
        self.probability = float(probability)
        self.batch = batch
        self.seed = int(seed)

    @torch.no_grad()
    def __call__(
        self,
        detect: Detect,
        image: Tensor,
        boxes: Tensor,
        class_vectors: Tensor,
        state: DRISEState | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """One saliency map for each detection, all of them from the same masks.

        A target's own objectness does not enter: it would scale its map by a constant.

        Args:
            detect: the detector. It gets the image times the mask, so what is hidden is 0 in pixel units: black.
            image: (3,h,w) pixels as ``detect`` wants them, on its device.
            boxes: detections to explain, (D,4).
            class_vectors: their class probabilities, (D,K); see :func:`find_class_vectors`.
            state: goes on from here and is kept up to date. Where a run was interrupted does not matter.
            progress: called with (masks done, masks in all) after every batch.

        Returns:
            S, (D,h,w) float32, non-negative.

        Raises:
            ValueError: shapes that do not fit, a state of another run, or a weight that is not finite.
        """
        if image.ndim != 3 or boxes.shape != (len(boxes), 4) or class_vectors.ndim != 2:
            shapes = ", ".join(str(tuple(x.shape)) for x in (image, boxes, class_vectors))
            raise ValueError(f"image, boxes and class_vectors have shapes {shapes}; need (3,h,w), (D,4) and (D,K)")
        if len(class_vectors) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes have {len(class_vectors)} class vectors")
        state = DRISEState() if state is None else state
        settings = {"seed": self.seed, "grid": list(self.grid), "probability": self.probability}
        state.begin(image, boxes, settings)
        if state.done > self.masks:
            raise ValueError(f"the state has {state.done} masks already, more than the {self.masks} asked for")
        # Two arrays take turns: adding in place would leave sums without their number if interrupted right after it,
        # and a new array for every batch would take as long as a detection.
        spare = torch.empty_like(state.sums)
        while len(boxes) and state.done < self.masks:
            numbers = range(state.done, min(state.done + self.batch, self.masks))
            masks = random_masks(numbers, tuple(image.shape[1:]), self.grid, self.probability, self.seed)
            masks = masks.to(image.device)
            weights = mask_weights(detect(image * masks[:, None]), boxes, class_vectors).to(masks)
            if weights.shape[1] != len(numbers):
                raise ValueError(f"detect returned proposals of {weights.shape[1]} images; it got {len(numbers)}")
            torch.addmm(state.sums.flatten(1), weights, masks.flatten(1), out=spare.view(len(boxes), -1))
            state.sums, state.done, spare = spare, numbers.stop, state.sums
            if progress is not None:
                progress(state.done, self.masks)
        return state.sums / (max(1, state.done) * self.probability)


def random_masks(numbers: Sequence[int], size: Size, grid: Size, probability: float, seed: int = 0) -> Tensor:
    """Some of the masks of a seed, each made from its number alone.

    As in RISE (Petsiuk et al., BMVC 2018): a grid of random bits is enlarged bilinearly to one cell more than it has,
    (gh+1) ceil(h/gh) x (gw+1) ceil(w/gw) pixels, and cut to the image at a random place, up to one cell off.

    Args:
        numbers: which masks.
        size: (h,w).
        grid: (gh,gw).
        probability: p, that a bit is 1.
        seed: at least 0.

    Returns:
        (n,h,w) float32 in [0,1], of mean p at every pixel, on the CPU.
    """
    generator = torch.Generator()
    random = []
    for number in numbers:
        # The CPU's generator looks at 32 bits of a seed.
        generator.manual_seed((seed * _MASKS_A_SEED + number) % 2**32)
        random.append(torch.rand(2 + grid[0] * grid[1], generator=generator))
    drawn = torch.stack(random)
    cell = torch.tensor([-(-pixels // cells) for pixels, cells in zip(size, grid)])
    shifts = (drawn[:, :2] * cell).long().minimum(cell - 1)
    return enlarge_grids((drawn[:, 2:] < probability).float().view(-1, *grid), shifts, size)


def enlarge_grids(bits: Tensor, shifts: Tensor, size: Size) -> Tensor:
    """Grids enlarged bilinearly by one cell more than they have, and cut to the image.

    Args:
        bits: (n,gh,gw) float.
        shifts: where the cut begins, (n,2) int64 pixels (y,x), each less than a cell.
        size: (h,w).

    Returns:
        (n,h,w).
    """
    weights = []
    for axis, (pixels, cells) in enumerate(zip(size, bits.shape[1:])):
        # Only the cut is computed: what every cell contributes to every pixel, by linear interpolation.
        length = (cells + 1) * -(-pixels // cells)
        place = (torch.arange(pixels) + shifts[:, axis, None] + 0.5) * (cells / length) - 0.5
        distance = (place.clamp(0, cells - 1)[:, :, None] - torch.arange(cells)).abs()
        weights.append((1 - distance).clamp(min=0))
    return (weights[0] @ bits @ weights[1].transpose(1, 2)).clamp_(0, 1)


def similarity(boxes: Tensor, class_vectors: Tensor, proposals: Proposals) -> Tensor:
    """Equation (3) of the D-RISE paper: s(t, j) = IoU(L_t, L_j) * cos(P_t, P_j) * O_j.

    Args:
        boxes: of the detections, (D,4).
        class_vectors: of the detections, (D,K); a vector of zeros is similar to nothing.
        proposals: the R candidates of one image. Without objectness its factor is left out.

    Returns:
        (D,R) in [0,1].
    """
    found_boxes, found_vectors, objectness = proposals
    cosine = F.normalize(class_vectors, dim=1) @ F.normalize(found_vectors, dim=1).t()
    similar = _pairwise_iou(boxes, found_boxes) * cosine.clamp(0, 1)
    return similar if objectness is None else similar * objectness


def mask_weights(found: Sequence[Proposals], boxes: Tensor, class_vectors: Tensor) -> Tensor:
    """Weights w = max_j s(t, j) of every detection in every masked image; 0 where nothing was found.

    Args:
        found: the proposals of n images.
        boxes: of the detections, (D,4).
        class_vectors: of the detections, (D,K).

    Returns:
        (D,n) in [0,1].

    Raises:
        ValueError: a weight is not finite.
    """
    weights = boxes.new_zeros((len(boxes), len(found)), dtype=torch.float32)
    for i, proposals in enumerate(found):
        if len(proposals[0]):
            own = Proposals(*(None if part is None else part.to(weights) for part in proposals))
            weights[:, i] = similarity(boxes.to(weights), class_vectors.to(weights), own).amax(dim=1)
    if not torch.isfinite(weights).all():
        raise ValueError("a detector's proposals are not finite; check the weights and the image")
    return weights


def find_class_vectors(proposals: Proposals, boxes: Tensor, classes: Tensor) -> Tensor:
    """Class vectors of detections that are known by box and class only.

    Args:
        proposals: what the detector finds in the whole image, best without non-maximum suppression.
        boxes: (D,4).
        classes: (D,) int64.

    Returns:
        (D,K): for each detection the vector of the proposal with the largest IoU * probability of the class.

    Raises:
        ValueError: there are detections, but no proposals.
    """
    found_boxes, vectors, _ = proposals
    if len(boxes) == 0:
        return vectors.new_zeros((0, vectors.shape[1]))
    if len(found_boxes) == 0:
        raise ValueError(f"no proposals to find the class vectors of {len(boxes)} detections in")
    return vectors[(_pairwise_iou(boxes, found_boxes) * vectors.t()[classes]).argmax(dim=1)]


def drise_heat_maps(maps: Tensor, boxes: Tensor, output_size: Size | None = None) -> HeatMaps:
    """Maps of :class:`DRISE` as every consumer of explanations takes them: a grid with one cell a pixel.

    The minimum of each map counts as its background: see the module's last but one paragraph.

    Args:
        maps: (D,h,w).
        boxes: the explained detections, (D,4).
        output_size: (ho,wo) of the image as the user sees it; default (h,w).
    """
    size = (int(maps.shape[1]), int(maps.shape[2]))
    grid = Grid(maps, torch.arange(len(maps), device=maps.device), stride=1)
    lowest = maps.flatten(1).amin(dim=1) if maps.numel() else maps.new_zeros(len(maps))
    return HeatMaps((grid,), boxes, size, size, output_size or size, background=lowest)


def _pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(n,4), (m,4) -> (n,m); 0 for boxes without area."""
    sides = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0)
    inside = sides.prod(dim=2)
    areas = [(x[:, 2:] - x[:, :2]).clamp(min=0).prod(dim=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1] - inside
    return inside / union.where(union > 0, 1.0)
