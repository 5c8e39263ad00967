"""How all commands speak and end."""

import io
import logging

import pytest
from rich.console import Console

from odam_d2.cli import common
from odam_d2.cli.common import FAILED, INTERRUPTED, print_error, print_left_out, progress_bar, run_command


def raises(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_exit_code_is_that_of_the_work(code, capsys):
    assert run_command(lambda: code) == code
    assert capsys.readouterr() == ("", "")


def test_an_error_is_one_line_on_stderr(capsys):
    # Longer than the terminal is wide, with what rich would take for markup and a line break.
    message = "there is no [bold]file[/bold] " + "long " * 60
    assert run_command(raises(ValueError(message + "\nor so"))) == FAILED == 1
    assert capsys.readouterr() == ("", f"error: {message} or so\n")


def test_an_error_of_the_system_is_one_too(capsys):
    assert run_command(raises(FileNotFoundError("there is no file a"))) == 1
    assert capsys.readouterr().err == "error: there is no file a\n"


@pytest.mark.parametrize(("left", "said"), [("", "interrupted\n"), ("all is kept", "interrupted: all is kept\n")])
def test_ctrl_c_ends_with_130_and_says_what_it_leaves(left, said, capsys):
    assert run_command(raises(KeyboardInterrupt()), left) == INTERRUPTED == 130
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(("error", "code"), [(ValueError("no"), 1), (KeyboardInterrupt(), 130)])
def test_a_process_that_keeps_silent_ends_the_same_way(error, code, capsys):
    assert run_command(raises(error), "all is kept", shown=False) == code
    assert capsys.readouterr() == ("", "")


def test_a_mistake_in_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_errors_are_red_and_what_is_left_out_yellow(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    print_error("no")
    print_left_out(Console(stderr=True), ValueError("a.jpg is empty"))
    assert terminal.getvalue() == "\x1b[31merror: no\x1b[0m\n\x1b[33mleft out: a.jpg is empty\x1b[0m\n"


def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(monkeypatch, capsys):
    with progress_bar() as progress:
        assert list(progress.track([1, 2], description="counting")) == [1, 2]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("TERM", "xterm")
    for shown in (True, False):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        with progress_bar(shown) as progress:
            list(progress.track([1, 2], description="counting"))
        assert ("counting" in terminal.getvalue() and "2/2" in terminal.getvalue()) == shown


def test_detectron2_tells_warnings_alone(call, capsys):
    from detectron2.utils.logger import setup_logger

    from odam_d2.cli.common import quiet_detectron2

    # Once a process it gives a logger what prints; another test may have taken that away again.
    setup_logger.cache_clear()

    def work(_):
        quiet_detectron2()
        # As Detectron2 does it: by the name of a module.
        for name in ("detectron2.checkpoint", "fvcore.common.checkpoint"):
            logging.getLogger(name).info("told")
            logging.getLogger(name).warning("warned")
        return 0

    done = call(work)
    assert done.out.count("warned") == 2 and "told" not in done.out + done.err


def test_commands_with_a_network_are_quiet_and_keep_their_memory(monkeypatch):
    called = []
    monkeypatch.setattr(common, "quiet_detectron2", lambda: called.append("quiet"))
    monkeypatch.setattr(common, "keep_memory", lambda: called.append("memory"))
    common.prepare_for_network()
    assert called == ["quiet", "memory"]
