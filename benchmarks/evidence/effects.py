"""What the responses of a plan say: effects of methods, comparisons of pairs, ranks.

Logs in, per cent for people out.
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

from benchmarks.evidence.design import Levels, aliased_pairs, contrast
from benchmarks.evidence.plan import Block

RESAMPLES = 2000
CONFIDENCE = 0.95
POWER = 0.8
Responses = Mapping[tuple[str, Block], float]       # {(cell, block): response}.


def per_cent(log_ratio: float) -> float:
    """A difference of logarithms as per cent: -0.105 is -10 %."""
    return 100 * math.expm1(log_ratio)


@dataclass(frozen=True)
class Effect:
    """A change of the log response with its interval.

    Attributes:
        name: The method, or methods whose interaction it is, with all that it is confused with.
        value, low, high: Of the logarithm.
        p: Of there being none, before any correction.
        p_holm: After Holm's correction over all effects that were asked for together.
        visible: The smallest effect that would have been found with a probability of 80 %.
    """
    name: str
    value: float
    low: float
    high: float
    p: float
    visible: float
    p_holm: float = math.nan

    @property
    def is_clear(self) -> bool:
        """Does the interval leave out no effect at all?"""
        return self.low > 0 or self.high < 0


def factorial_effects(values: Responses, levels: Mapping[str, Levels], seed: int = 0) -> list[Effect]:
    """The main effect of every factor, from log response = block + sum of effects.

    The interval is the wider one of two: a bootstrap over blocks,
    which knows that a method may help on one data set and not on another, and Student's from the residuals of
    the model, which is right also for a handful of blocks, of which a bootstrap makes too much.
    """
    factors = list(next(iter(levels.values())))
    contrasts = {(name,): [levels[cell][name] for cell in levels] for name in factors}
    return _effects(values, levels, contrasts, seed)


def interactions(values: Responses, levels: Mapping[str, Levels], seed: int = 0) -> list[Effect]:
    """The interactions of two factors, in the groups that the design separates; one value for each group.

    None for a single block: with its mean and all effects nothing is left of it to judge them by.
    """
    design = list(levels.values())
    groups = aliased_pairs(design)
    if len({block for cell, block in values if cell in levels}) < 2:
        return []
    contrasts = {tuple(f'{a} x {b}' for a, b in group): list(contrast(design, group[0])) for group in groups}
    main = {(name,): [row[name] for row in design] for name in design[0]}
    return _effects(values, levels, {**main, **contrasts}, seed)[len(main):]


def _effects(values: Responses, levels: Mapping[str, Levels],
             contrasts: Mapping[tuple[str, ...], Sequence[int]], seed: int) -> list[Effect]:
    """Effects of contrasts (signs by cell, in the order of `levels`)."""
    cells = list(levels)
    rows = [(cell, block, value) for (cell, block), value in values.items() if cell in levels]
    blocks = sorted({block for _, block, _ in rows})
    signs = np.array([[column[cells.index(cell)] for column in contrasts.values()] for cell, _, _ in rows],
                     float)
    of_block = np.array([[block == other for other in blocks] for _, block, _ in rows], float)
    y = np.array([value for *_, value in rows])
    fit = OLS(y, np.hstack([of_block, signs / 2])).fit()
    first = len(blocks)
    student = fit.conf_int(1 - CONFIDENCE)[first:]
    booted = _bootstrap_blocks(y, of_block, signs / 2, seed)
    quantile = stats.t.ppf([(1 + CONFIDENCE) / 2, POWER], fit.df_resid).sum()
    found = []
    for i, name in enumerate(contrasts):
        low, high = min(student[i][0], booted[i][0]), max(student[i][1], booted[i][1])
        p = max(fit.pvalues[first + i], _p_of_interval(fit.params[first + i], low, high))
        visible = quantile * max(fit.bse[first + i],
                                 (high - low) / 2 / stats.t.ppf((1 + CONFIDENCE) / 2, fit.df_resid))
        found.append(Effect(', '.join(name), float(fit.params[first + i]), float(low), float(high), float(p),
                            float(visible)))
    return with_holm(found)


def _bootstrap_blocks(y: np.ndarray, of_block: np.ndarray, signs: np.ndarray, seed: int) -> np.ndarray:
    """[effects, 2]: percentile intervals of the effects when blocks are drawn with replacement.

    A block that is drawn twice counts twice, with an intercept that stays its own;
    centring within blocks takes the intercepts out.
    """
    num_blocks = of_block.shape[1]
    counts = of_block.sum(axis=0)

    def centred(x):
        return x - of_block @ ((of_block.T @ x) / (counts[:, None] if x.ndim == 2 else counts))

    x, z = centred(signs), centred(y)
    members = [of_block[:, b] > 0 for b in range(num_blocks)]
    gram = np.stack([x[m].T @ x[m] for m in members])
    cross = np.stack([x[m].T @ z[m] for m in members])
    rng = np.random.default_rng(seed)
    draws = rng.integers(num_blocks, size=[RESAMPLES, num_blocks])
    inverse = np.linalg.pinv(gram[draws].sum(axis=1), hermitian=True)  # [draws, effects, effects]
    solved = (inverse @ cross[draws].sum(axis=1)[..., None])[..., 0]                # [draws, effects]
    return np.quantile(solved, expanded_quantiles(num_blocks), axis=0).T


def expanded_quantiles(num: int) -> tuple[float, float]:
    """Quantiles of a bootstrap of the mean of `num` values that make its interval as wide as it ought to be.

    A plain percentile interval of a few values is too narrow, as if Student had never been.
    Source: Hesterberg, The American Statistician 69 (2015), section 4.2, "expanded percentile" intervals.
    """
    if num < 2:
        return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    low = float(stats.norm.cdf(stats.t.ppf((1 - CONFIDENCE) / 2, num - 1) * math.sqrt(num / (num - 1))))
    return low, 1 - low


def _p_of_interval(value: float, low: float, high: float) -> float:
    """What p a normal estimate with this 95 % interval has; so that p and interval say the same."""
    spread = (high - low) / 2 / stats.norm.ppf((1 + CONFIDENCE) / 2)
    return float(2 * stats.norm.sf(abs(value) / spread)) if spread else 0.0


def with_holm(effects: Sequence[Effect]) -> list[Effect]:
    """The same effects with p corrected for their number [Holm 1979]."""
    if not effects:
        return []
    corrected = multipletests([effect.p for effect in effects], method='holm')[1]
    return [Effect(**{**effect.__dict__, 'p_holm': float(p)}) for effect, p in zip(effects, corrected)]


def pseudo_error(effects: Sequence[float]) -> float:
    """Standard error of effects from the effects themselves, most of which are noise [Lenth 1989];
    for one block."""
    sizes = np.abs(np.asarray(effects, float))
    first = 1.5 * np.median(sizes)
    return float(1.5 * np.median(sizes[sizes < 2.5 * first])) if first else 0.0


@dataclass(frozen=True)
class Comparison:
    """A cell against another on the blocks that both have.

    Attributes:
        cell, against: Names.
        num_blocks: How many.
        value, low, high: Mean difference of the log response; interval by a bootstrap over blocks,
            or Student's where that is wider; without bounds for a single block.
        p: Wilcoxon's signed rank test; NaN for a single block.
        improvement: Probability that a run of the one is better than a run of the other in its block.
    """
    cell: str
    against: str
    num_blocks: int
    value: float
    low: float
    high: float
    p: float
    improvement: float


def compare(values: Responses, cell: str, against: str, seed: int = 0) -> Comparison | None:
    """The difference of two cells, None if they share no block."""
    mine, theirs = ({block: value for (name, block), value in values.items() if name == wanted}
                    for wanted in (cell, against))
    blocks = sorted(set(mine) & set(theirs))
    if not blocks:
        return None
    differences = np.array([mine[block] - theirs[block] for block in blocks])
    better = np.mean((differences < 0) + 0.5 * (differences == 0))
    mean = float(differences.mean())
    if not differences.any():
        return Comparison(cell, against, len(blocks), 0.0, 0.0, 0.0, 1.0, 0.5)
    if len(blocks) == 1:
        return Comparison(cell, against, 1, mean, -math.inf, math.inf, math.nan, float(better))
    low, high = stats.t.interval(CONFIDENCE, len(blocks) - 1, mean, stats.sem(differences) or 1e-300)
    level = np.diff(expanded_quantiles(len(blocks))).item()
    booted = stats.bootstrap((differences,), np.mean, n_resamples=RESAMPLES, confidence_level=level,
                             method='percentile', rng=np.random.default_rng(seed)).confidence_interval
    p = float(stats.wilcoxon(differences).pvalue)
    return Comparison(cell, against, len(blocks), mean, float(min(low, booted.low)),
                      float(max(high, booted.high)), p, float(better))


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of cells over data sets, 1 the best, and how far apart they must be to mean anything.

    Source: Demsar, JMLR 7 (2006), section 3.2.
    """
    mean: dict[str, float]
    p: float                    # Friedman's test.
    critical: float             # Nemenyi's critical difference, alpha = 0.05.
    num_sets: int


def ranks(values: Responses) -> Ranks | None:
    """Over the data sets (with their sizes) on which every cell has a response;
    None for less than three cells or two sets."""
    cells = sorted({cell for cell, _ in values})
    groups: dict[tuple, dict[str, list[float]]] = {}
    for (cell, block), value in values.items():
        groups.setdefault((block.data, block.num_images), {}).setdefault(cell, []).append(value)
    table = np.array([[np.mean(group[cell]) for cell in cells] for group in groups.values()
                      if set(group) == set(cells)])
    if len(cells) < 3 or len(table) < 2:
        return None
    k, n = len(cells), len(table)
    critical = stats.studentized_range.ppf(0.95, k, np.inf) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    mean = stats.rankdata(table, axis=1).mean(axis=0)
    return Ranks(dict(zip(cells, map(float, mean))), float(stats.friedmanchisquare(*table.T).pvalue),
                 float(critical), n)


def rank_correlation(a: Responses, b: Responses) -> float:
    """Spearman's, of two metrics over the runs that both scored; NaN for less than three."""
    shared = sorted(set(a) & set(b))
    if len(shared) < 3:
        return math.nan
    return float(stats.spearmanr([a[key] for key in shared], [b[key] for key in shared]).statistic)
