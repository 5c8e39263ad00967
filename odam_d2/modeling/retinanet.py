"""RetinaNet that remembers where each detection came from."""

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import RetinaNet

from odam_d2.modeling.dense import DenseTracing


@META_ARCH_REGISTRY.register()
class ODAMRetinaNet(DenseTracing, RetinaNet):
    """Detectron2's :class:`RetinaNet` with :meth:`trace`; same arguments, parameters and detections."""
