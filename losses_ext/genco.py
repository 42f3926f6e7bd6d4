"""What the two halves of GenCo share [Cui et al. 2022, AAAI,
arXiv:2110.01254]: several critics D_k face one generator.

    L_G = sum_k L_G(D_k)            or, with `reduce=mean`, the mean over the critics of a source
"""
from dataclasses import dataclass

from losses_ext.option import option
from training.loss import Game
from training.regularizer import Regularizer


@dataclass(frozen=True)
class Options:
    """Options of everything with several critics."""
    reduce: str = option('sum', 'How G adds up its losses by the critics.', choices=('sum', 'mean'))
    fakes: str = option('shared', 'Do the critics learn from the same fakes, or each from fresh ones?',
                        choices=('shared', 'fresh'))


class GenCo(Regularizer):
    """Is part of every run with `weco` or `daco`; adds no term itself."""
    Options = Options
    works_apart = True

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        game.share_fakes = options.fakes == 'shared'
        if options.reduce == 'mean':
            for critic in game.critics.values():
                critic.weight = 1 / len(game.critics_of(critic.source))
