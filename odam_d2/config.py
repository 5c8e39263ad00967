"""Every configuration key that odam_d2 adds to Detectron2's defaults, with its meaning."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg

from odam_d2.config_file import merge_file, merge_options


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults, odam_d2's keys, a yaml file and ``KEY VALUE`` pairs, in this order.

    The datasets that ``ODAM.DATASETS`` describes are then registered; their files are read later.

    Args:
        config_file: path of a yaml file or, where there is no such file, the name of one of odam_d2's own
            (:func:`odam_d2.model_zoo.list_configs`), such as ``demo/fcos_nanodet_g.yaml``.
        opts: ``KEY VALUE KEY VALUE ...``.

    Raises:
        FileNotFoundError: no such file or name; names that are close to it are listed.
        ValueError: a key that does not exist, a value of the wrong type, ``ODAM.DATASETS`` that describe none, or a
            file that is not yaml, is empty or includes itself; the message names it.
    """
    # Not at the top of this file: the zoo reads configs.
    from odam_d2.data.own import register_datasets
    from odam_d2.model_zoo.files import find_config_file

    cfg = get_cfg()
    add_odam_config(cfg)
    file = find_config_file(config_file)
    try:
        merge_file(cfg, file)
    except ValueError as error:
        raise ValueError(f"config file {config_file} cannot be used: {error}") from error
    merge_options(cfg, opts)
    register_datasets(cfg)
    return cfg


def add_odam_config(cfg: CfgNode) -> None:
    """Add odam_d2's keys to a Detectron2 config, in place, and make its names known to Detectron2.

    Afterwards ``build_model(cfg)`` finds odam_d2's models, the catalogs have its datasets with their metadata, and
    ``MODEL.WEIGHTS`` may be ``odam://...``. A second call changes nothing.

    Args:
        cfg: the node that ``detectron2.config.get_cfg()`` returned.
    """
    _register()
    if "ODAM" in cfg:
        return
    if not torch.cuda.is_available():
        # Detectron2's default is "cuda" whatever the machine has.
        cfg.MODEL.DEVICE = "cpu"
    _add_models(cfg)
    cfg.ODAM = CfgNode()
    # Your own datasets, one word each, to be named in DATASETS.TRAIN and DATASETS.TEST: "mine=ann.json:images/" (COCO),
    # "mine=annotation.odgt:Images/" (CrowdHuman), "mine=voc:folder/:train" (VOC); --dataset is short for it.
    cfg.ODAM.DATASETS = []
    _add_explanation(cfg)
    _add_nms(cfg)
    _add_training(cfg)
    _add_odam_train(cfg)
    _add_embedding(cfg)
    _add_distillation(cfg)


def _register() -> None:
    # Not at the top of this file: what is registered may itself read configs.
    # Importing them registers odam:// and the models.
    import odam_d2.model_zoo
    import odam_d2.modeling  # noqa: F401
    from odam_d2.data.builtin import register_all

    register_all()


def _add_models(cfg: CfgNode) -> None:
    # ---- FCOS. Detectron2 has the model but no yaml keys for it; the names follow MODEL.RETINANET.
    cfg.MODEL.FCOS = CfgNode()
    cfg.MODEL.FCOS.NUM_CLASSES = 80
    cfg.MODEL.FCOS.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Convolutions in each of the two subnets, their normalisation ("", "GN") and the initial foreground probability.
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

    # ---- Transformer detectors of Hugging Face's library (META_ARCHITECTURE ODAMDETR; the extra "transformers").
    cfg.MODEL.TRANSFORMERS = CfgNode()
    # Either the name of a model on the hub or a folder of save_pretrained, whose config alone is read here: the weights
    # are MODEL.WEIGHTS, such as "hf://facebook/detr-resnet-50" or that folder. Or a json for a model from scratch.
    cfg.MODEL.TRANSFORMERS.NAME = ""
    cfg.MODEL.TRANSFORMERS.CONFIG = ""
    # Without background; 0: as that config says.
    cfg.MODEL.TRANSFORMERS.NUM_CLASSES = 0
    # ODAMGrounded and ODAMOWL: what to look for, phrases that end in a full stop: "a bottle. a banana."
    cfg.MODEL.TRANSFORMERS.TEXT = ""
    # Detections score more than this. These detectors know no threshold and no NMS when they are evaluated.
    cfg.MODEL.TRANSFORMERS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.TRANSFORMERS.NMS_THRESH_TEST = 1.0


def _add_explanation(cfg: CfgNode) -> None:
    # ---- Explanations. How ODAM smooths gradients (its Phi): "none" as in the paper's numbers, "gaussian" as in its
    # figures, with a width adapted to each object.
    cfg.ODAM.EXPLAIN = CfgNode()
    # "odam", or to compare "gradcam", "gradcam++", "hirescam", "layercam", "ssgradcam++", "drise"; of two-stage
    # detectors also "bbam"; of transformers whose queries attend to every cell (DETR, Conditional DETR) also
    # "attention", "rollout", "game".
    cfg.ODAM.EXPLAIN.METHOD = "odam"
    # "fpn": the level a detection comes from; "roi_pool" of two-stage detectors; a stage of the backbone, as "res4". Of
    # transformers, "fpn" is the last stage; they also have "projection" and "encoder" ("encoder4", ... by stride).
    cfg.ODAM.EXPLAIN.LAYER = "fpn"
    cfg.ODAM.EXPLAIN.SMOOTHING = "none"
    # "exact": one backward pass for each detection. "batched": all detections together, for hundreds of them (pooled
    # regions of two-stage detectors, reversed head of dense ones). "auto": batched where that is possible.
    cfg.ODAM.EXPLAIN.PATH = "exact"
    # GiB that the reversed head may take at a time.
    cfg.ODAM.EXPLAIN.MEMORY = 1.0
    # The method "drise": masks an image, and masked images that go through the detector at a time.
    cfg.ODAM.EXPLAIN.DRISE_MASKS = 5000
    cfg.ODAM.EXPLAIN.DRISE_BATCH = 8
    # The changed images of D-RISE, Deletion and Insertion go through the detector in mixed precision, up to twice as
    # fast where the hardware has it: bfloat16 on a CPU, float16 on a GPU.
    cfg.ODAM.EXPLAIN.AMP = False
    # The method "bbam" of two-stage detectors: steps in which each mask is optimised, and what an image shows where it
    # is hidden: "mean" (the colour MODEL.PIXEL_MEAN) or "blurred".
    cfg.ODAM.EXPLAIN.BBAM_STEPS = 300
    cfg.ODAM.EXPLAIN.BBAM_OUTSIDE = "mean"
    # "odam explain" explains detections that score at least this much, and at most so many an image.
    cfg.ODAM.EXPLAIN.CONFIDENCE_THRESHOLD = 0.5
    cfg.ODAM.EXPLAIN.MAX_INSTANCES = 10


def _add_nms(cfg: CfgNode) -> None:
    # ---- The NMS a detector holds: "greedy" (Detectron2's own), "soft", "feature" or "odam". The IoU threshold (the
    # paper's T_iou) is the detector's own key: MODEL.FCOS.NMS_THRESH_TEST, MODEL.RETINANET.NMS_THRESH_TEST or
    # MODEL.ROI_HEADS.NMS_THRESH_TEST; so are the numbers of candidates and of kept detections.
    cfg.ODAM.NMS = CfgNode()
    cfg.ODAM.NMS.NAME = "greedy"
    # ODAM-NMS: what its maps explain, and by which path they are made (see ODAM.EXPLAIN.PATH): "auto" is exact where
    # that decides, on small levels of heads with GroupNorm; "batched" never is there. All else is ODAM.EXPLAIN's.
    cfg.ODAM.NMS.TARGET = "class_logit"
    cfg.ODAM.NMS.PATH = "auto"
    # ODAM-NMS: "cosine" or "pearson", and the thresholds T^h and T^l of Algorithm 1; 1.0 and -1.0 switch them off.
    cfg.ODAM.NMS.CORRELATION = "cosine"
    cfg.ODAM.NMS.CORR_HIGH = 0.8
    cfg.ODAM.NMS.CORR_LOW = 0.2
    # Cells along the image's short edge of the grid on which heat maps are compared; fewer where the network's input
    # has fewer pixels, or the image is longer than 8 : 1.
    cfg.ODAM.NMS.SHORT_EDGE = 50
    # Soft-NMS: "gaussian" or "linear", width of the Gaussian, and the decayed score below which candidates go.
    cfg.ODAM.NMS.SOFT_METHOD = "gaussian"
    cfg.ODAM.NMS.SOFT_SIGMA = 0.5
    cfg.ODAM.NMS.SOFT_SCORE_THRESH = 0.05
    # FeatureNMS asks the embeddings between these overlaps; closer than the distance means the same object.
    cfg.ODAM.NMS.FEATURE_IOU_HIGH = 0.9
    cfg.ODAM.NMS.FEATURE_IOU_LOW = 0.1
    cfg.ODAM.NMS.FEATURE_DISTANCE = 1.0


def _add_training(cfg: CfgNode) -> None:
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
    # Keep the regions that a crowd data set marks as neither object nor background (iscrowd): what lies in them is no
    # background in training. Detectron2 drops the marks. Two-stage detectors need MODEL.PROPOSAL_GENERATOR.NAME
    # ODAMRPN.
    cfg.ODAM.INPUT.IGNORE_REGIONS = False
    # Annotations whose "score", that of the detector that made them, is less than this become such regions.
    cfg.ODAM.INPUT.MIN_LABEL_SCORE = 0.0
    # ---- Solver: "SGD" (Detectron2's) or "ADAMW" (decoupled decay, SOLVER.WEIGHT_DECAY).
    cfg.ODAM.SOLVER = CfgNode()
    cfg.ODAM.SOLVER.OPTIMIZER = "SGD"
    # Learning-rate factor of the backbone's bottom-up network, whose weights are pretrained.
    cfg.ODAM.SOLVER.BACKBONE_MULTIPLIER = 1.0


def _add_odam_train(cfg: CfgNode) -> None:
    # ---- ODAM-Train (section 6.1): two more losses, by which maps of one object agree and those of different ones do
    # not.
    cfg.ODAM.TRAIN = CfgNode()
    cfg.ODAM.TRAIN.ENABLED = False
    # Factor of both losses.
    cfg.ODAM.TRAIN.WEIGHT = 1.0
    # Whose maps an object's best one shall differ from: "all" positives of other objects, as in the paper, or those of
    # objects with "overlapping" boxes.
    cfg.ODAM.TRAIN.NEGATIVES = "all"
    # True: the losses reach all that made the maps, through gradients too. False: gradients count as constants.
    cfg.ODAM.TRAIN.SECOND_ORDER = True
    # At most so many positives of an image are compared: those with the highest IoU, the best of each object first.
    cfg.ODAM.TRAIN.MAX_SAMPLES = 300
    # How their maps are made, see ODAM.EXPLAIN.PATH.
    cfg.ODAM.TRAIN.PATH = "batched"
    # With or without these losses: so many images of the first test dataset are explained and their maps measured
    # whenever detections are (TEST.EVAL_PERIOD), and one is shown in TensorBoard.
    cfg.ODAM.TRAIN.EXPLAINED_IMAGES = 0


def _add_embedding(cfg: CfgNode) -> None:
    # ---- Embeddings for FeatureNMS (Salscheider, ICPR 2020): one more head, trained by the margin loss.
    cfg.ODAM.EMBEDDING = CfgNode()
    # Length of an embedding, 32 in the paper; 0: no such head, and Detectron2's parameter names.
    cfg.ODAM.EMBEDDING.DIM = 0
    # Convolutions of its tower in dense detectors; two-stage ones have one linear layer on the box head.
    cfg.ODAM.EMBEDDING.NUM_CONVS = 2
    cfg.ODAM.EMBEDDING.LOSS_WEIGHT = 1.0
    # alpha and beta: distances up to BOUNDARY mean the same object, and pairs shall keep MARGIN from it.
    cfg.ODAM.EMBEDDING.MARGIN = 0.2
    cfg.ODAM.EMBEDDING.BOUNDARY = 1.0
    # At most so many positives of an image, drawn at random, are compared with each other; 0: all.
    cfg.ODAM.EMBEDDING.MAX_SAMPLES = 300
    # True: the head learns on the detector's features without changing them, so that every NMS is compared on the same
    # detector. False: joint training, as in the paper.
    cfg.ODAM.EMBEDDING.DETACH = True


def _add_distillation(cfg: CfgNode) -> None:
    # ---- Distillation (section 5): the detector learns beside a frozen teacher. "" (off), "odam_kd", or to compare
    # "fgd", "fgfi", "gid", "fkd", "cwd", "pkd".
    cfg.ODAM.KD = CfgNode()
    cfg.ODAM.KD.DISTILLER = ""
    # The teacher: its own config, by name or path; its weights, "" for MODEL.WEIGHTS of that config; and keys of that
    # config with other values, KEY VALUE KEY VALUE.
    cfg.ODAM.KD.TEACHER = CfgNode()
    cfg.ODAM.KD.TEACHER.CONFIG_FILE = ""
    cfg.ODAM.KD.TEACHER.WEIGHTS = ""
    cfg.ODAM.KD.TEACHER.OPTS = []
    # Measure the teacher on DATASETS.TEST before training begins, and warn if the student becomes better than it.
    cfg.ODAM.KD.TEACHER.EVALUATE = False
    # The student begins with the teacher's neck and heads, all but the bottom-up network, wherever shapes agree.
    cfg.ODAM.KD.INHERIT = True
    # ODAM-KD, the columns of Table 7. Objects whose places are foreground: "focused" (those with a key prediction on a
    # level), "unfocused" (the others) or "together".
    cfg.ODAM.KD.FOREGROUND = "focused"
    # Whether the background is distilled.
    cfg.ODAM.KD.BACKGROUND = True
    # Attention of the foreground: "bottom_up" as in FGD, or equation (6) with maps by "odam" or "gradcam".
    cfg.ODAM.KD.ATTENTION = "odam"
    # Weigh channels as FGD does; equation (7) as it is written does not.
    cfg.ODAM.KD.WEIGH_CHANNELS = True
    _add_weights_of_distillers(cfg.ODAM.KD)


def _add_weights_of_distillers(node: CfgNode) -> None:
    # ---- In all of these a negative number is the one that was published for the student's kind of detector.
    # FGD and ODAM-KD: the published numbers, of "retinanet", "fcos", "two_stage" or, with "auto", the student's kind;
    # then single ones, T and the weights alpha (foreground), beta (background), gamma (attention), lambda (relation).
    node.FGD = CfgNode()
    node.FGD.PRESET = "auto"
    node.FGD.TEMPERATURE = -1.0
    node.FGD.ALPHA = -1.0
    node.FGD.BETA = -1.0
    node.FGD.GAMMA = -1.0
    node.FGD.LAMBDA = -1.0
    # FGFI: psi, and the weight of the loss.
    node.FGFI = CfgNode()
    node.FGFI.RATIO = 0.5
    node.FGFI.WEIGHT = 0.01
    # GID: instances an image, and the weights of its four terms.
    node.GID = CfgNode()
    node.GID.INSTANCES = 10
    node.GID.FEATURE = 5e-4
    node.GID.RELATION = 40.0
    node.GID.RESPONSE_CLASS = 0.1
    node.GID.RESPONSE_BOX = 1.0
    # FKD: T, and the weights of its three terms.
    node.FKD = CfgNode()
    node.FKD.TEMPERATURE = -1.0
    node.FKD.FEATURE = -1.0
    node.FKD.ATTENTION = -1.0
    node.FKD.RELATION = -1.0
    # CWD: T, and the weight of the loss.
    node.CWD = CfgNode()
    node.CWD.TEMPERATURE = 1.0
    node.CWD.WEIGHT = 10.0
    # PKD: the weight of the loss.
    node.PKD = CfgNode()
    node.PKD.WEIGHT = -1.0
