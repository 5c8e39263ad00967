"""odam_d2's configs and weights by name, from any working folder: the interface of ``detectron2.model_zoo``."""

from odam_d2.model_zoo.files import get_config_file, list_configs
from odam_d2.model_zoo.models import get, get_checkpoint_url, get_config
from odam_d2.model_zoo.paths import ODAMPathHandler

__all__ = ["ODAMPathHandler", "get", "get_checkpoint_url", "get_config", "get_config_file", "list_configs"]
