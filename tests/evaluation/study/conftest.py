"""A detector that finds its objects perfectly, and a dataset of what it finds."""

import pytest

from evaluation.explained import make_predictor, register, unregister, write_dataset
from evaluation.study.runs import NAME


@pytest.fixture(scope="module")
def predictor(quick_weights):
    return make_predictor("fcos", quick_weights("fcos"))


@pytest.fixture(scope="module")
def dataset(predictor, tmp_path_factory):
    path = write_dataset(tmp_path_factory.mktemp("data") / "explained", predictor)
    register(NAME, path)
    yield path
    unregister(NAME)
