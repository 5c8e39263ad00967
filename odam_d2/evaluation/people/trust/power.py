"""How many participants a study needs, by simulation: people who answer as the paper's did, on average.

Nothing here is a result about people: responses are drawn from the shares that the paper reports in section 4.3, each
independently of all others. Real responses of one person are alike, so that a real study needs more.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import chi2_contingency, chisquare, wilcoxon

from odam_d2.evaluation.people.trust.studies import CHOOSE, DRAW, RANK

SIMULATION = "SIMULATION, no people: responses are drawn independently from the shares in section 4.3 of the paper"
# What the paper's people did. Ranks 1 to 4 of ODAM and of the next best, D-RISE, in %.
ODAM_RANKS, DRISE_RANKS = (53.8, 35.4, 8.9, 1.9), (35.1, 29.5, 17.5, 17.9)
# Chose the better detector, the weaker one, found them similar, in %.
CHOICES = (38.2, 28.6, 33.2)
# Boxes that meant the right object, in %: ODAM and D-RISE.
ODAM_ACCURACY, DRISE_ACCURACY = 94.0, 60.67
# Questions of a participant: the paper's, and for choosing, where it does not say, as many as for ranking. Of those
# where a box is drawn, each shows one of four methods.
EACH = {RANK: 30, CHOOSE: 30, DRAW: 15}
METHODS = 4
SIGNIFICANT = 0.05


def rank_pairs(first: Sequence[float], other: Sequence[float]) -> np.ndarray:
    """How often two methods have which ranks in one response, such that each has its own shares and no tie.

    Of all such tables the one nearest to independence: proportional fitting of rows and columns, zeros on the diagonal.

    Args:
        first: shares of its ranks.
        other: likewise.

    Returns:
        (ranks of the first, ranks of the other), sums to 1.
    """
    rows, columns = (np.array(shares) / np.sum(shares) for shares in (first, other))
    table = 1.0 - np.eye(len(rows))
    for _ in range(500):
        table *= (rows / table.sum(axis=1))[:, None]
        table *= columns / table.sum(axis=0)
    return table / table.sum()


def _p_rank(responses: int, rng: np.random.Generator) -> float:
    table = rank_pairs(ODAM_RANKS, DRISE_RANKS)
    drawn = rng.choice(table.size, size=responses, p=table.ravel())
    first, other = np.unravel_index(drawn, table.shape)
    return float(wilcoxon(first, other).pvalue) if first.mean() < other.mean() else 1.0


def _p_choose(responses: int, rng: np.random.Generator) -> float:
    better, weaker, _ = rng.multinomial(responses, np.array(CHOICES) / sum(CHOICES))
    # An effect in the other direction is not the paper's.
    return float(chisquare([better, weaker]).pvalue) if better > weaker else 1.0


def _p_draw(responses: int, rng: np.random.Generator) -> float:
    each = max(1, responses // METHODS)
    right = [rng.binomial(each, share / 100) for share in (ODAM_ACCURACY, DRISE_ACCURACY)]
    table = np.array([[own, each - own] for own in right])
    if (table.sum(axis=0) == 0).any() or right[0] <= right[1]:
        return 1.0
    return float(chi2_contingency(table, correction=False).pvalue)


EFFECTS: dict[str, tuple[str, Callable[[int, np.random.Generator], float]]] = {
    RANK: ("ODAM ranks before D-RISE (Wilcoxon)", _p_rank),
    CHOOSE: ("the better detector is chosen more often (χ²)", _p_choose),
    DRAW: ("boxes are right more often by ODAM than by D-RISE (χ²)", _p_draw),
}


def simulate_power(kind: str, participants: Sequence[int], repeats: int = 200, seed: int = 0) -> list[float]:
    """The part of simulated studies that find the paper's effect with p < .05.

    Args:
        kind: ``rank``, ``choose`` or ``draw``.
        participants: numbers to try.
        repeats: simulated studies of each number.
        seed: the same gives the same.

    Returns:
        in [0,1], for each number.

    Raises:
        ValueError: an unknown kind, no participants, or no repeats.
    """
    if kind not in EFFECTS:
        raise ValueError(f"unknown study {kind!r}; valid studies are {', '.join(EFFECTS)}")
    if repeats < 1 or min(participants, default=0) < 1:
        raise ValueError(
            f"{repeats} studies of {list(participants)} participants cannot be simulated; at least 1 is needed"
        )
    rng, (_, p_value) = np.random.default_rng(seed), EFFECTS[kind]
    return [
        float(np.mean([p_value(count * EACH[kind], rng) < SIGNIFICANT for _ in range(repeats)]))
        for count in participants
    ]


def draw_power(path: Path, powers: dict[str, Sequence[float]], participants: Sequence[int]) -> None:
    """Draw power against the number of participants, labelled as a simulation.

    Args:
        path: of the PNG file.
        powers: kind -> what :func:`simulate_power` found.
        participants: the numbers.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for (kind, own), marker in zip(powers.items(), "osD"):
        axes.plot(participants, own, marker=marker, label=f"{EFFECTS[kind][0]}, {EACH[kind]} questions each")
    axes.axhline(0.8, color="black", linewidth=0.8, linestyle="--")
    axes.set(
        title="Simulated: how many participants find the paper's effect",
        xlabel="participants",
        ylabel="part of simulated studies",
        ylim=(0, 1.02),
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.supxlabel(SIMULATION, fontsize=8, color="firebrick")
    figure.savefig(path, dpi=130)
