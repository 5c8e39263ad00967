"""D-RISE interrupted and gone on with: the end is the same bit for bit, and states of other runs are refused."""

import io

import pytest
import torch

from explain.masks.test_drise import BOXES, VECTORS, image, see
from odam_d2.explain.masks.drise import DRISE, DRISEState


class Interruption(Exception):
    pass


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    loaded = DRISEState()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    return loaded


@pytest.mark.parametrize("where", ["detect", "progress"])
@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(where, calls):
    drise = DRISE(22, (4, 4), batch=6, seed=2)
    expected = drise(see, image(), BOXES, VECTORS)
    count = {"detect": 0, "progress": 0}

    def interrupt(name):
        count[name] += 1
        if name == where and count[name] > calls:
            raise Interruption

    def detect(images):
        interrupt("detect")
        return see(images)

    state = DRISEState()
    with pytest.raises(Interruption):
        drise(detect, image(), BOXES, VECTORS, state, lambda done, total: interrupt("progress"))
    assert state.done == min(22, 6 * (calls + (where == "progress")))
    state = saved_and_loaded(state)
    assert torch.equal(drise(see, image(), BOXES, VECTORS, state), expected)
    assert state.done == 22


def test_a_finished_run_gives_its_maps_again_or_goes_on_to_more_masks():
    state = DRISEState()
    few = DRISE(16, (4, 4))(see, image(), BOXES, VECTORS, state)
    assert torch.equal(DRISE(16, (4, 4))(lambda images: [], image(), BOXES, VECTORS, state), few)
    more = DRISE(40, (4, 4))(see, image(), BOXES, VECTORS, state)
    assert torch.equal(more, DRISE(40, (4, 4))(see, image(), BOXES, VECTORS))
    with pytest.raises(ValueError, match="40 masks already"):
        DRISE(16, (4, 4))(see, image(), BOXES, VECTORS, state)


def test_a_saved_state_does_not_change_when_the_run_goes_on():
    kept = []
    state = DRISEState()
    drise = DRISE(12, (4, 4), batch=2)
    expected = drise(see, image(), BOXES, VECTORS, state, lambda done, total: kept.append(state.state_dict()))
    for saved in [*kept, kept[2]]:
        resumed = DRISEState()
        resumed.load_state_dict(saved)
        assert torch.equal(drise(see, image(), BOXES, VECTORS, resumed), expected)


def test_a_state_of_another_run_is_refused():
    state = DRISEState()
    DRISE(4, (4, 4))(see, image(), BOXES, VECTORS, state)
    with pytest.raises(ValueError, match="'seed': 0.*'seed': 1"):
        DRISE(8, (4, 4), seed=1)(see, image(), BOXES, VECTORS, state)
    with pytest.raises(ValueError, match="'grid'"):
        DRISE(8, (4, 5))(see, image(), BOXES, VECTORS, state)
    with pytest.raises(ValueError, match="other boxes"):
        DRISE(8, (4, 4))(see, image(), BOXES + 1, VECTORS, state)
    with pytest.raises(ValueError, match=r"\(2, 12, 16\).*\(1, 12, 16\)"):
        DRISE(8, (4, 4))(see, image(), BOXES[:1], VECTORS[:1], state)
    with pytest.raises(ValueError, match="lacks sums"):
        DRISEState().load_state_dict({"done": 3, "boxes": BOXES, "settings": {}})


def test_progress_is_told_after_every_batch():
    told = []
    DRISE(10, (4, 4), batch=4)(see, image(), BOXES, VECTORS, progress=lambda *numbers: told.append(numbers))
    assert told == [(4, 10), (8, 10), (10, 10)]
