"""Every configuration key that odam_d2 adds to Detectron2's defaults, with its meaning."""

from detectron2.config import CfgNode


def add_odam_config(cfg: CfgNode) -> None:
    """Add odam_d2's keys to a Detectron2 config, in place.

    Args:
        cfg: the node that ``detectron2.config.get_cfg()`` returned.
    """
    # ---- FCOS. Detectron2 has the model but no yaml keys for it; the names follow MODEL.RETINANET.
    cfg.MODEL.FCOS = CfgNode()
    cfg.MODEL.FCOS.NUM_CLASSES = 80
    cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Convolutions in each of the two subnets, their normalisation ("", "GN", ...) and the initial foreground probability.
    cfg.MODEL.FCOS.NUM_CONVS = 4
    cfg.MODEL.FCOS.NORM = "GN"
    cfg.MODEL.FCOS.PRIOR_PROB = 0.01
    # Anchor points closer than this many strides to a box centre are positives.
    cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS = 1.5
    cfg.MODEL.FCOS.FOCAL_LOSS_ALPHA = 0.25
    cfg.MODEL.FCOS.FOCAL_LOSS_GAMMA = 2.0
    # The score is sqrt(class probability * centerness), hence a higher threshold than RetinaNet's.
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.2
    cfg.MODEL.FCOS.TOPK_CANDIDATES_TEST = 1000
    cfg.MODEL.FCOS.NMS_THRESH_TEST = 0.6

    # ---- Any timm network as the bottom-up part of an FPN (MODEL.BACKBONE.NAME build_timm_fpn_backbone).
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "efficientnet_lite0"
    # True lets timm fetch its own ImageNet weights (needs a network); MODEL.WEIGHTS loads afterwards either way.
    cfg.MODEL.TIMM.PRETRAINED = False
    # Use the stored batch statistics instead of those of a small detection batch.
    cfg.MODEL.TIMM.FREEZE_BN = True
    # Coarser levels on top of the FPN: "p6p7" (two convolutions, dense heads), "p6" (max-pooling, R-CNN) or "none".
    cfg.MODEL.TIMM.TOP_BLOCK = "p6p7"

    cfg.ODAM = CfgNode()
    # ---- Training a detector on few images: augmentation beyond Detectron2's defaults. Off unless CROP_SIZE > 0.
    cfg.ODAM.INPUT = CfgNode()
    # Side in pixels of the square training crop (padded where the image is smaller).
    cfg.ODAM.INPUT.CROP_SIZE = 0
    # The image is first scaled to fit the crop, then by a random factor in this range (large-scale jitter).
    cfg.ODAM.INPUT.SCALE_RANGE = [0.4, 2.0]
    # Random brightness, contrast and saturation within 1 +- this value.
    cfg.ODAM.INPUT.COLOR_JITTER = 0.0
    # Probability that a training sample is a 2x2 mosaic of four jittered images.
    cfg.ODAM.INPUT.MOSAIC_PROB = 0.0
    # ---- Solver: "SGD" (Detectron2's) or "ADAMW" (decoupled decay, SOLVER.WEIGHT_DECAY).
    cfg.ODAM.SOLVER = CfgNode()
    cfg.ODAM.SOLVER.OPTIMIZER = "SGD"
    # Learning-rate factor of the backbone's bottom-up network, whose weights are pretrained.
    cfg.ODAM.SOLVER.BACKBONE_MULTIPLIER = 1.0
