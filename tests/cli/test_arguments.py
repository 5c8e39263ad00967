"""Lists of names, and the options that commands share."""

from pathlib import Path

import pytest

from odam_d2.cli.arguments import add_config_file, add_layer, add_names, add_opts, add_output, make_parser, split_names


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["odam,gradcam++"], ["odam", "gradcam++"]),
        (["odam", "gradcam++"], ["odam", "gradcam++"]),
        (["odam,", "gradcam++,,drise "], ["odam", "gradcam++", "drise"]),
        (["class_score[dog]"], ["class_score[dog]"]),
        (["class_score[traffic light],x1"], ["class_score[traffic light]", "x1"]),
        # As two words of the shell, where nobody wrote quotes.
        (["class_score[traffic", "light]", "x1"], ["class_score[traffic light]", "x1"]),
        (["class_score[a, b],class_logit[c d]"], ["class_score[a, b]", "class_logit[c d]"]),
        (["a[b]c d"], ["a[b]c", "d"]),
        ([","], []),
        ([], []),
    ],
)
def test_names_are_separated_by_commas_and_spaces_outside_brackets(words, names):
    assert split_names(words) == names


@pytest.mark.parametrize("text", ["class_score[dog", "class_score dog]", "a]b[", "a[b[c]]", "["])
def test_a_bracket_without_its_partner_is_refused(text):
    with pytest.raises(ValueError, match="bracket without its partner"):
        split_names([text, "x1"])


@pytest.fixture
def parser():
    parser = make_parser("try", "Tries.")
    add_config_file(parser)
    add_output(parser)
    add_layer(parser)
    add_names(parser, "--methods", "of these", default=("odam",))
    add_opts(parser)
    return parser


def test_shared_options_are_read_the_same_way(parser):
    words = "--config-file a.yaml --output out --layer res4 --methods odam, drise --opts A.B 1 --layer x"
    args = parser.parse_args(words.split())
    assert args.config_file == "a.yaml" and args.output == Path("out") and args.layer == "res4"
    assert args.methods == ["odam", "drise"] and args.opts == ["A.B", "1", "--layer", "x"]


def test_defaults_are_theirs(parser):
    args = parser.parse_args(["--config-file", "a.yaml", "--output", "out"])
    assert args.layer is None and args.methods == ("odam",) and args.opts == []


@pytest.mark.parametrize("words", [[","], ["", " "]])
def test_an_empty_list_is_no_list(parser, words):
    with pytest.raises(ValueError, match="^--methods names no method; give names separated by commas or spaces$"):
        parser.parse_args(["--config-file", "a.yaml", "--output", "out", "--methods", *words])


@pytest.mark.parametrize("words", [["--output", "out"], ["--config-file", "a", "--output", "b", "--lay", "res4"]])
def test_what_is_missing_or_abbreviated_ends_with_the_usage(parser, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(words)
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith("usage: odam try ")


def test_an_output_with_a_default_may_be_left_out():
    parser = make_parser("try", "Tries.")
    add_output(parser, default=Path("output/a.pth"))
    assert parser.parse_args([]).output == Path("output/a.pth")
