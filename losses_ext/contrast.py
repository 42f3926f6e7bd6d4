"""What the contrastive methods share: heads on a critic, its momentum copy, and queues of what the copy saw.

The loss is InfoNCE [van den Oord et al. 2018, arXiv:1807.03748], copy
and queues are those of MoCo [He et al. 2020, CVPR, arXiv:1911.05722]:

    e(x)                 the critic's last maps before its minibatch statistics, mean over their positions
    q = H(e(u)) / |H(e(u))|          k = H'(e'(v)) / |H'(e'(v))|, a constant
    C(u, v; H, Q) = -log( exp(q.k / T) / ( exp(q.k / T) + sum_j exp((q.Q_j + t_j) / T) ) )

u, v: two views of one image, each with a draw of the augmentation of its own; H: a head, two dense layers;
e', H': of the momentum copy of the critic and its heads; Q: unit vectors of earlier images; t_j: 0, unless
the method says otherwise.

Once an iteration, after all phases: D' <- momentum * D' + (1 - momentum) * D, and the vectors of all
micro-batches and ranks take the place of the oldest in their queue, so that the split of a batch changes
nothing.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from torch_utils import distributed, misc, training_stats
from torch_utils.cuda_graphs import Kept
from torch_utils.randomness import Streams
from training.loss import Game, StepContext
from training.player import Player
from training.regularizer import Regularizer, Term

DIM = 128           # Of the vectors that are compared.
LOWEST = 4          # Resolution of the critic's last maps.
SHARE = 0.05        # Of the images, mirrored ones counted: the length of a queue unless it is given.


class Head(torch.nn.Module):
    """H: [N,width] -> [N,DIM], with the usual first weights of dense layers."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden = torch.nn.Linear(width, width)
        self.out = torch.nn.Linear(width, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x).relu())


class Queue:
    """A ring of unit vectors, at first random ones; `written` says in which iteration each was written."""

    def __init__(self, length: int, rng: torch.Generator, device: torch.device):
        self.entries = normalize(torch.randn([length, DIM], generator=rng)).to(device)     # [K,DIM]
        self.written = torch.randn([length], generator=rng).to(device)                      # [K]
        self.position = 0                               # Of the oldest entry.

    @torch.no_grad()
    def write(self, vectors: Tensor, batch_idx: int) -> None:
        """Replaces the oldest entries by vectors [N,DIM], in
        place; of more than the queue holds, the first are taken.

        An entry stays as it is where the new vector is not finite.
        """
        length, num = len(self.entries), len(vectors)
        where = torch.arange(min(num, length), device=vectors.device)
        if num <= length:
            where = (where + self.position) % length
            self.position = (self.position + num) % length
        self.entries[where] = misc.finite_or(vectors[:length], self.entries[where])
        self.written[where] = batch_idx

    def state_dict(self) -> dict:
        return dict(entries=self.entries, written=self.written, position=self.position)

    def load_state_dict(self, state: dict) -> None:
        device = self.entries.device
        self.entries, self.written = state['entries'].to(device), state['written'].to(device)
        self.position = state['position']


class Contrast(Regularizer):
    """Base of the contrastive methods: the first critic of every source has a head for each kind of images, a
    momentum copy, and a queue for each head. Queues hold what is left of private images: they are in the
    state of a run, and nowhere else.
    """

    def __init__(self, game: Game, options: Any, kinds: Mapping[str, int | None]):
        """`kinds`: {'real' or 'fake': length of the queue of such images; None: 5 % of the images}.

        Raises ValueError for a critic that hands out no feature maps.
        """
        super().__init__(game, options)
        if LOWEST not in getattr(game.D.module, 'channels', ()):
            raise ValueError(f'--reg_type={self._name} needs feature maps, which a {type(game.D.module).__name__} does not hand '
                             f'out: leave out {self._name}, or give another --D')
        game.tap_D = True
        self._kinds = dict(kinds)
        self._queues: dict[str, Queue] = {}             # By 'critic/kind'.
        self._seen = Kept()                             # By (critic, kind, micro-batch): vectors [N,DIM] of this iteration.
        for critic in game.first_critics:
            assert critic.view is None, f'{critic.name} sees but a part of images'
            for kind in kinds:
                critic.graft(self._head_name(kind), self._maker(f'{critic.name}/{kind}'))

    @property
    def _name(self):
        return type(self).__module__.rpartition('.')[2]

    def _head_name(self, kind):
        return f'{self._name}_{kind}'

    def _maker(self, name):
        """Makes a head with weights that no other choice changes."""
        seed = Streams(self.game.seed).seed_of(0, f'weights/{self._name}/{name}')

        def make(D):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return Head(D.channels[LOWEST])
        return make

    # Which views are compared.

    def g_main(self, ctx: StepContext) -> Term:
        """Fakes that can be told from each other: two views of each, through the critic as it is."""
        if self.options.weight_g == 0:
            return None
        terms = []
        for critic in self.game.critics_of(ctx.source):
            if self._head_name('fake') in critic.grafts:
                query = self._vectors(critic, 'fake', self._maps(ctx, critic, ctx.gen.img, ctx.fake_c, 'query'))
                key = self._key(ctx, critic, 'fake', ctx.gen.img, ctx.fake_c)
                terms.append(critic.weight * self._report(critic, 'generator', self._contrast(critic, 'fake', query, key)))
        return self.options.weight_g * sum(terms) if terms else None

    def _contrast_reals(self, ctx: StepContext) -> Term:
        """Two views of each real; the key goes into the queue."""
        if self._head_name('real') not in ctx.critic.grafts:
            return None
        query = self._vectors(ctx.critic, 'real', self._maps(ctx, ctx.critic, ctx.real_img, ctx.real_c, 'real/query'))
        key = self._key(ctx, ctx.critic, 'real', ctx.real_img, ctx.real_c)
        self._seen[ctx.critic.name, 'real', ctx.round] = key
        return self._report(ctx.critic, 'real', self._contrast(ctx.critic, 'real', query, key))

    def _contrast_fakes(self, ctx: StepContext, z: Tensor, keep: str) -> Term:
        """The contrast of each fake with its neighbour, which is made of latents z [N,z_dim].

        `keep` says what enters the queue: the 'key', of the
        neighbour; or the 'query', of the fake, projected by H'.
        """
        critic = ctx.critic
        if self._head_name('fake') not in critic.grafts or self.options.weight_fake == 0:
            return None
        use = 'gen' if self.options.mixing == 'shared' else f'{self._name}/gen'
        with torch.no_grad():
            neighbour = self.game.generate(ctx, z, ctx.gen_c, use, update_w_avg=False).img
        maps = self._maps(ctx, critic, ctx.gen.img.detach(), ctx.fake_c, 'query')
        key = self._key(ctx, critic, 'fake', neighbour, ctx.fake_c)
        with torch.no_grad():
            self._seen[critic.name, 'fake', ctx.round] = key if keep == 'key' else \
                self._vectors(critic, 'fake', maps.detach(), self._copy_of(critic))
        return self._report(critic, 'fake', self._contrast(critic, 'fake', self._vectors(critic, 'fake', maps), key))

    # The terms.

    def _maps(self, ctx, critic, img, c, use, D=None):
        """e(img), [N,width] float32, under a draw of the augmentation of its own."""
        verdict = self.game.judge(ctx, critic, img, c, f'{self._name}/{use}/{critic.name}', D=D)
        return verdict.feats[LOWEST].float().mean([2, 3])

    def _vectors(self, critic, kind, maps, D=None):
        """Unit vectors [N,DIM] of e [N,width], by the head of the critic or of its copy."""
        return normalize(getattr(D or critic.module, self._head_name(kind))(maps))

    @torch.no_grad()
    def _key(self, ctx, critic, kind, img, c):
        copy_of_D = self._copy_of(critic)
        return self._vectors(critic, kind, self._maps(ctx, critic, img, c, f'{kind}/key', copy_of_D), copy_of_D)

    def _contrast(self, critic, kind, query, key):
        queue = self._queues[f'{critic.name}/{kind}']
        return contrast(query, key, queue.entries, self.options.temperature, self._offsets(queue))

    def _offsets(self, queue: Queue) -> Tensor | float:
        """t, [K] or the same for all."""
        return 0.0

    def _report(self, critic, what, term):
        training_stats.report(f'Loss/{self._name}/{what}{critic.suffix}', term)
        return term

    # What is remembered.

    def _copy_of(self, critic: Player) -> torch.nn.Module:
        return self.game.frozen[f'{self._name}_{critic.name}']

    def begin_stage(self, stage: Any, seed: int, resumed: bool) -> None:
        if resumed:
            return
        rng = torch.Generator().manual_seed(seed % 2 ** 63)
        self._seen.clear()
        for name in [name for name in self.game.frozen if name.startswith(f'{self._name}_')]:
            del self.game.frozen[name], self.game.frozen_of[name]
        for critic in self._on_line(len(stage.sources)):
            self.game.keep_copy(f'{self._name}_{critic.name}', critic)
            for kind, length in self._kinds.items():
                length = length or queue_length(len(stage.sources[critic.source].dataset))
                self._queues[f'{critic.name}/{kind}'] = Queue(length, rng, next(critic.module.parameters()).device)

    def _on_line(self, num_sources):
        return [critic for critic in self.game.first_critics if critic.source < num_sources]

    @torch.no_grad()
    def end_iteration(self, nimg: int, batch_idx: int) -> None:
        for critic in self.game.first_critics:
            if f'{self._name}_{critic.name}' in self.game.frozen:
                for theirs, parameter in zip(self._copy_of(critic).parameters(), critic.module.parameters()):
                    theirs.lerp_(parameter, 1 - self.options.momentum)
        for critic, kind in dict.fromkeys((critic, kind) for critic, kind, _ in self._seen):
            parts = [vectors for (of, kind_, _), vectors in self._seen.items() if (of, kind_) == (critic, kind)]
            self._queues[f'{critic}/{kind}'].write(distributed.gather(torch.cat(parts)), batch_idx)
        self._seen.clear()

    def shared_state_dict(self) -> dict:
        return {name: queue.state_dict() for name, queue in self._queues.items()}

    def load_shared_state_dict(self, state: dict) -> None:
        device = next(self.game.D.module.parameters()).device
        self._queues = {name: Queue(len(queue['entries']), torch.Generator(), device) for name, queue in state.items()}
        for name, queue in state.items():
            self._queues[name].load_state_dict(queue)
        self._seen.clear()


def contrast(query: Tensor, key: Tensor, queue: Tensor, temperature: float, offsets: Tensor | float = 0.0) -> Tensor:
    """C, [N]: query and key are unit vectors [N,DIM], the
    queue is [K,DIM], `offsets` are t, [K] or one for all."""
    same = (query * key).sum(1, keepdim=True)                                       # [N,1]
    others = query @ queue.T + offsets                                              # [N,K]
    logits = torch.cat([same, others], dim=1) / temperature
    return cross_entropy(logits, torch.zeros([len(logits)], dtype=torch.int64, device=logits.device), reduction='none')


def queue_length(num: int) -> int:
    """The length of a queue, unless it is given, for so many images, mirrored ones counted."""
    return int(SHARE * num)


def require_views(name: str, config: dict) -> None:
    """Raises ValueError for a run without augmentation, whose views of an image are all the same."""
    if config.get('augment_kwargs') is None:
        raise ValueError(f'--reg_type={name} compares two augmented views of an image, which --aug=noaug leaves the same: '
                         'give --aug=ada, --aug=fixed or --aug=diffaug')


def require_trained_head(name: str, options: Any) -> None:
    """Raises ValueError if G were rewarded by a head for fakes that never learns."""
    if options.weight_fake == 0 < options.weight_g:
        raise ValueError(f'--{name}_weight_fake=0: the head by which --{name}_weight_g={options.weight_g:g} '
                         f'rewards G would learn nothing; give --{name}_weight_g=0, too')


def require_entries(option: str, length: int | None, config: dict) -> None:
    """Raises ValueError if a data set of the run is too small for a queue whose length is not given."""
    kwargs = config.get('training_set_kwargs') or config.get('centre_kwargs') or {}
    nums = [min(num, kwargs.get('max_size') or num) for num in config.get('data_num_images', ())]
    fewest = min(nums, default=0) * 2 ** sum(bool(kwargs.get(flip)) for flip in ('xflip', 'yflip'))
    if length is None and nums and queue_length(fewest) < 1:
        raise ValueError(f'{option}: 5 % of {fewest} images are less than one; give a number, such as {option}=16')
