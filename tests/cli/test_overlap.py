"""Loading, working and saving beside each other: order, errors, and how much may wait."""

import threading

import pytest

from odam_d2.cli.overlap import overlap, worth_overlapping


def double(item, value):
    return 2 * value


@pytest.mark.parametrize("ahead", [0, 4])
def test_items_come_out_in_order_with_what_was_saved(ahead):
    results = overlap(range(20), lambda i: i + 1, double, lambda i, value: f"{i}: {value}", ahead)
    assert list(results) == [(i, f"{i}: {2 * (i + 1)}") for i in range(20)]
    assert list(overlap([], None, None, None)) == []


@pytest.mark.parametrize("ahead", [0, 4])
def test_an_error_of_each_of_the_three_reaches_its_own_item(ahead):
    def failing(when):
        def act(item, value=None):
            if item == when:
                raise OSError(f"{item} failed") if when % 2 else ValueError(f"{item} failed")
            return item

        return act

    results = dict(overlap(range(6), failing(1), failing(2), failing(4), ahead))
    assert list(results) == list(range(6))
    assert {i: str(results[i]) for i in (1, 2, 4)} == {i: f"{i} failed" for i in (1, 2, 4)}
    assert [results[i] for i in (0, 3, 5)] == [0, 3, 5]


@pytest.mark.parametrize("ahead", [0, 4])
def test_other_exceptions_end_everything(ahead):
    def work(item, value):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(overlap(range(3), abs, work, double, ahead))
    with pytest.raises(ZeroDivisionError):
        list(overlap(range(3), lambda i: 1 // i, double, double, ahead))


def test_what_is_ahead_loads_and_what_is_behind_saves_while_the_work_goes_on():
    # Each end waits for the other: one thread alone would stand still.
    loaded, worked = threading.Event(), threading.Event()

    def load(item):
        if item == 1:
            loaded.set()
        return item

    def work(item, value):
        assert loaded.wait(10)
        if item == 1:
            worked.set()
        return value

    def save(item, value):
        assert worked.wait(10)
        return value

    assert list(overlap(range(2), load, work, save)) == [(0, 0), (1, 1)]


def test_memory_is_bounded_where_saving_is_slow():
    taken, release = [], threading.Event()
    threading.Timer(0.3, release.set).start()

    def items():
        for i in range(50):
            taken.append(i)
            yield i

    def save(item, value):
        if not release.is_set():
            # One being worked on, four that wait to be loaded, and five on their way to be saved.
            assert len(taken) <= 11
            release.wait(10)
        return item

    assert [saved for _, saved in overlap(items(), abs, double, save, ahead=4)] == list(range(50))


def test_without_a_core_to_spare_everything_is_done_in_turn_by_one_thread(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    for cores, worth in ((2, False), (1, False), (3, True)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        assert worth_overlapping("cpu") == worth and worth_overlapping("cuda")
    seen = []
    for _ in overlap(
        range(3), lambda i: seen.append(f"load {i}"), lambda i, v: seen.append(f"work {i}"), double_none, 0
    ):
        seen.append("out")
    assert seen == [word for i in range(3) for word in (f"load {i}", f"work {i}", "out")]


def double_none(item, value):
    assert value is None and threading.current_thread() is threading.main_thread()
