"""Temporary discriminators for data centres that come one after another [Qu et al. 2020,
"Learn Distributed GAN with Temporary Discriminators", ECCV, arXiv:2007.09221].

While centre k is on line it has a critic of its own, D_k, which is thrown away afterwards. G learns from the
centres on line ("digesting"), and is held to the images that G', which is G when the stage began, makes for
earlier centres ("reminding"):

    L_G = sum_k w_k L_G(D_k)  +  remind * A * mean |G(z, [c, e_j]) - G'(z, [c, e_j])|         k on line, j earlier

z, c: latents and labels; e_j: the code of centre j, appended to G's label; A: number of earlier centres.
Without codes both terms would act on the same latents, and the result would be images between the centres,
not of them. G and G' see the same random draws.
"""
import copy
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.numbers import in_words, is_within
from losses_ext.centres import Absent, Centre, Mixed
from losses_ext.option import option
from losses_ext.sites import apart
from losses_ext.sites.elsewhere import CentreElsewhere, Elsewhere, recast
from losses_ext.sites.hub import hub_of
from torch_utils import misc, training_stats
from training.data.stages import Stage
from training.loss import Game, Phase, StepContext
from training.regularizer import Regularizer, Term

TEACHER = 'Gbar'


LENGTH = '(0, inf)'            # Of a stage, in kimg.


@dataclass(frozen=True)
class Options:
    """Options of TDGAN."""
    data: str = option('', 'Data sets of the centres 0, 1, ..., separated by commas; in place of --data.')
    schedule: str = option('', 'Stages as CENTRES:KIMG, for example 0:500,1+2:500,0:250; empty: each once, equally long.')
    remind: float = option(10.0, 'Weight of the reminding term (the paper: 100).', within='[0, inf)')
    remind_interval: int = option(1, 'Iterations between two reminding terms.', within='[1, inf)')
    metric: str = option('l1', 'Distance between the images of G and of the earlier G.', choices=('l1', 'l2'))
    memory: str = option('sum', 'Is the term as large as the number of earlier centres, or 1?',
                         choices=('sum', 'mean'))
    prev: str = option('raw', 'The earlier G: as it was, or its moving average.', choices=('raw', 'ema'))
    code: str = option('auto', 'Tell G the centre; auto: with two or more.', choices=('auto', 'on', 'off'))
    slots: int = option(0, 'Codes to reserve for centres to come; 0: as many as there are centres.',
                        within='[0, inf)')
    d: str = option('fresh', 'Critics of a centre that comes back: new, or the old ones.',
                    choices=('fresh', 'keep'))
    gopt: str = option('reset', 'The optimizer of G at a new stage.', choices=('reset', 'keep'))
    warmup: float = option(0.0, 'Thousands of images at the start of a stage (not of the first) in which new critics learn and '
                           'G is only reminded.', within='[0, inf)')
    weights: str = option('size', 'Weights w_k of the centres on line.', choices=('size', 'uniform', 'sum'))
    code_init: str = option('copy',
                            'Where a new centre starts: from the images of the previous one, or anywhere.',
                            choices=('copy', 'random'))
    mode: str = option('local', 'Where centres are: here, or remote, each with its images and critics in a process of its own '
                       '(tdgan_centre.py, docs/sites.md).', choices=('local', 'remote'), left_out=True)
    centres: str = option('', 'Names of the centres 0, 1, ..., with commas, as in their certificates; of the mode remote, in '
                          'place of --tdgan_data.', left_out=True)
    listen: str = option('', 'HOST:PORT at which centres connect; in a job of NVFlare: nvflare.', left_out=True)
    tls: str = option('', 'Directory of the certificates of this end.', left_out=True)
    insecure: bool = option(False, 'Without certificates; on one machine only.', left_out=True)
    patience: float = option(3600.0, 'Seconds that a centre on line may be away.', within='[0, inf)', left_out=True)
    res: int = option(0, 'Width and height of the images of the centres.', within='[0, 4096]', left_out=True)
    channels: int = option(3, 'Channels of their images.', within='[1, 4]', left_out=True)
    labels: int = option(0, 'Numbers in their labels, with --cond=1.', within='[0, 1000000]', left_out=True)
    images: str = option('float32', 'How fakes travel; float32 is exact.', choices=('float32', 'bfloat16', 'uint8'),
                         left_out=True)
    grads: str = option('float32', 'How image gradients travel.', choices=('float32', 'bfloat16'), left_out=True)
    grad_clip: float | None = option(None, 'Centres cut off the gradient of each image at this norm before it leaves; none: '
                                     'they need not.', within='(0, inf)', left_out=True)
    grad_noise: float = option(0.0, 'Standard deviation of Gaussian noise that centres add to it.', within='[0, inf)',
                               left_out=True)


def titles(options: Options) -> list[str]:
    """What the centres are called: data sets, or names."""
    return (options.data if options.mode == 'local' else options.centres).split(',')


def default_schedule(num: int, total_kimg: float) -> str:
    """Each of `num` centres once, equally long."""
    return ','.join(f'{centre}:{total_kimg / num:.9g}' for centre in range(num))


def parse_schedule(options: Options) -> list[tuple[list[int], float]]:
    """[(centres on line, kimg)] of every stage. Raises ValueError."""
    num = len(titles(options))
    stages = []
    for text in options.schedule.split(','):
        ids, _, kimg = text.partition(':')
        try:
            centres, length = [int(i) for i in ids.split('+')], float(kimg)
        except ValueError:
            raise ValueError(f'--tdgan_schedule: {text!r} is not of the form CENTRES:KIMG, such as 0:500 or 1+2:500') from None
        if not (set(centres) <= set(range(num)) and len(set(centres)) == len(centres)
                and is_within(length, LENGTH)):
            raise ValueError(f'--tdgan_schedule: {text!r}: centres are 0 to {num - 1}, each at most once in a stage; '
                             f'KIMG must be {in_words(LENGTH, length)}')
        stages.append((centres, length))
    return stages


@dataclass
class CentreStage(Stage):
    """A stage of the schedule: its centres are `sources`, it ends at `end_nimg` images."""
    memory: tuple[Centre, ...] = ()         # Seen earlier, not on line now.
    previous: tuple[Centre, ...] = ()       # On line in the stage before.
    begin_nimg: int = 0                     # Images shown before it.
    number: int = 0                         # 0, 1, ...


class TDGAN(Regularizer):
    """Brings the data, the stages, the critics of further centres, and the reminding term."""
    Options = Options
    brings_data = True
    works_apart = True
    no_graphs = 'its stages bring other critics, and its step draws labels on the host'

    @classmethod
    def data_elsewhere(cls, options: Options) -> tuple[list[str], dict[str, int]] | None:
        return apart.data_elsewhere(options) if options.mode == 'remote' else None

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        apart.check(config, options, Options())
        num = len(titles(options))
        kimg = config.get('command', {}).get('kimg')
        if options.schedule and kimg is not None:
            print(f'Warning: --tdgan_schedule overrules --kimg={kimg}.', file=sys.stderr)
        options = replace(options, schedule=options.schedule or default_schedule(num, config['kimg']))
        config['kimg'] = sum(kimg for _, kimg in parse_schedule(options))
        has_code = options.code == 'on' or (options.code == 'auto' and num > 1)
        if 0 < options.slots < num:
            raise ValueError(f'--tdgan_slots={options.slots}: there are {num} centres')
        if options.slots and not has_code:
            raise ValueError(f'--tdgan_slots={options.slots} has no effect without codes: give --tdgan_code=on')
        config['centre_kwargs'], config['training_set_kwargs'] = config['training_set_kwargs'], None
        if has_code:
            config['G_kwargs']['c_dim'] = config['data_shape']['c_dim'] + (options.slots or num)
        elif num > 1:
            print('Warning: --tdgan_code=off: reminding and learning then act on the same latents, and G ends with images '
                  'between the centres instead of images of each.', file=sys.stderr)
        return options

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        self.interval = options.remind_interval
        self.sites = {'g_main'} if options.remind > 0 else set()
        self._stage = None
        self._nimg = 0                      # Images shown so far.
        self._base_weights = None
        self._kept = {}  # {centre: its critics and strength of augmentation} with --tdgan_d=keep.
        self._early: dict[int, int] = {}    # {stage: images after which it ended, as a centre stayed away}
        self._schedule = parse_schedule(options)
        # The number of the centre that this process is; None: it is none, and has G.
        self._own = apart.own_centre(options.mode)
        self._hub = None
        if options.mode == 'remote':
            self._hub = hub_of(titles(options), options.patience, options.listen, options.tls, images=options.images,
                               grads=options.grads)
            game.critics = {game.D.name: Elsewhere.like(game.D)}
        for source in range(1, max(len(ids) for ids, _ in self._schedule)):
            game.add_critic(f'D_{source}', source=source)

    def recast(self, phases: list[Phase]) -> list[Phase]:
        return phases if self._hub is None else list(recast(phases, self._hub))

    def _centre(self, index: int, kwargs: dict, code: np.ndarray | None) -> Centre:
        if self._hub is not None:
            return CentreElsewhere(index, kwargs, code, self._hub)
        if self._own not in (None, index):
            return Absent(index, kwargs, code)
        path = titles(self.options)[index] if self._own is None else self.options.data
        return Centre(index, {**kwargs, 'path': path}, code)

    def stages(self, config: dict) -> list[Any]:
        if self._hub is not None:
            self._hub.serve(self.game, config, *apart.terms(config), num_stages=len(self._schedule))
        num = len(titles(self.options))
        self._strength_adapts = config.get('target') is not None
        self._c_dim = config['data_shape']['c_dim']
        num_codes = config['G_kwargs'].get('c_dim', self._c_dim) - self._c_dim
        codes = np.eye(num, num_codes, dtype=np.float32) if num_codes else [None] * num
        self._centres = [self._centre(i, config['centre_kwargs'], codes[i]) for i in range(num)]
        stages, seen, previous, end_kimg = [], [], (), 0
        for number, (ids, kimg) in enumerate(self._schedule):
            on_line = [self._centres[i] for i in ids]
            memory = tuple(centre for centre in seen if centre not in on_line)
            seen += [centre for centre in on_line if centre not in seen]
            begin_nimg, end_kimg = round(end_kimg * 1000), end_kimg + kimg
            stages.append(CentreStage(round(end_kimg * 1000), on_line, Mixed([on_line, memory]), list(seen),
                                      memory, previous, begin_nimg, number))
            previous = tuple(on_line)
        self._stages = stages
        return stages

    def begin_stage(self, stage: Any, seed: int, resumed: bool) -> None:
        for centre in self._centres:
            if centre not in stage.sources:
                centre.close()
        if self._hub is not None:
            self._hub.begin_stage(stage, seed, resumed, self._nimg, self._early)
        if not resumed:
            new = [centre for centre in stage.sources if centre.labels is None]
            for centre in new:
                centre.note_contents()
            if stage.previous:
                self._change_over(stage, seed, new)
            self._report_stage(stage)
        self._stage = stage
        self._weigh_critics()
        self._end_early_if_over()

    def end_iteration(self, nimg: int, batch_idx: int) -> None:
        self._nimg = nimg
        if self._hub is not None:
            self._hub.end_iteration(nimg, batch_idx)
            self._end_early_if_over()
        if self.options.warmup:
            self._weigh_critics()

    def _end_early_if_over(self) -> None:
        """Ends the stage now if one of its centres has stayed away
        for too long; the next stage begins that much earlier."""
        if self._hub is not None and self._hub.is_over and self._stage.number not in self._early:
            self._early[self._stage.number] = self._stage.end_nimg = self._nimg

    def before_save(self, nimg: int) -> None:
        if self._hub is not None:
            self._hub.save(nimg)

    def _report_stage(self, stage):
        """Reports the stage and its centres, once: statistics keep their value until the next report."""
        training_stats.report0('Progress/tdgan_stage', stage.number)
        for centre in self._centres:
            training_stats.report0(f'Progress/tdgan_centre_{centre.index}', float(centre in stage.sources))

    def _change_over(self, stage, seed, new):
        """At the change of stages: keeps G as the teacher G', renews the
        critics, and copies a previous centre's code to the `new` ones."""
        game = self.game
        if self.options.d == 'keep':
            self._keep_critics()
        self._renew_critics(stage, seed)
        if self._own is not None:           # G is elsewhere.
            return
        if self._sees_memory(stage):
            game.frozen[TEACHER] = copy.deepcopy(game.G_ema if self.options.prev == 'ema' else game.G.module)
            game.frozen[TEACHER].train().requires_grad_(False)
        if self.options.gopt == 'reset':
            game.G.reset_optimizer()
        previous = [centre for centre in stage.previous if centre.labels is not None]       # Of others G knows nothing.
        if self.options.code_init == 'copy' and previous and previous[0].code is not None:
            for G in (game.G.module, game.G_ema):
                for centre in new:
                    self._copy_code(G, previous[0].index, centre.index)

    def _keep_critics(self):
        """Remembers the critics of the stage that ends, by
        centre; in the process of a centre only its own."""
        for source, centre in enumerate(self._stage.sources if self._stage else ()):
            if self._own not in (None, centre.index):
                continue
            critics = [critic.state_dict() for critic in self.game.critics_of(source)]
            self._kept[centre.index] = copy.deepcopy(dict(critics=critics, p=getattr(self.game.augment, 'p', None)))

    def _renew_critics(self, stage, seed):
        """Fresh critics, or those that their centres had when they
        were last on line, with that strength of augmentation."""
        for number, critic in enumerate(self.game.critics.values()):
            critic.reset(seed + number)
        kept = [self._kept.get(centre.index) for centre in stage.sources]
        for source, old in enumerate(kept):
            for critic, state in zip(self.game.critics_of(source), old['critics'] if old else ()):
                # Optimizers keep and change the tensors that they get.
                critic.load_state_dict(copy.deepcopy(state))
        if self._strength_adapts:                       # It follows the first critic.
            self.game.augment.p.copy_(kept[0]['p'] if kept[0] else torch.zeros([]))

    @torch.no_grad()
    def _copy_code(self, G, old, new):
        """In G's label embedding, copies the column of the code of centre `old` to that of centre `new`."""
        columns = G.mapping.embed.weight                                            # [embed_features, c_dim]
        columns[:, self._c_dim + new] = columns[:, self._c_dim + old]

    def _sees_memory(self, stage):
        return bool(self._memory_of(stage)) and 'g_main' in self.sites

    def _memory_of(self, stage):
        """The centres of which G is reminded: all earlier ones but those that never came."""
        return [centre for centre in stage.memory if centre.labels is not None]

    def _weigh_critics(self):
        """Multiplies the critics' weights in G's loss by those
        of their centres; all are 0 while new critics warm up."""
        centres = self._stage.sources
        warm = not self._stage.previous or self._nimg >= self._stage.begin_nimg + self.options.warmup * 1000
        if self._base_weights is None:
            self._base_weights = {name: critic.weight for name, critic in self.game.critics.items()}
        total = sum(centre.num for centre in centres) or 1          # 0: nobody has come.
        share = {'size': [centre.num / total for centre in centres],
                 'uniform': [1 / len(centres)] * len(centres), 'sum': [1] * len(centres)}[self.options.weights]
        for name, critic in self.game.critics.items():
            on_line = critic.source < len(centres)
            critic.weight = self._base_weights[name] * (share[critic.source] if on_line and warm else 0)

    def g_main(self, ctx: StepContext) -> Term:
        if self._own is not None or ctx.source > 0 or not self._sees_memory(self._stage):
            return None
        memory = self._memory_of(self._stage)
        c, _ = Mixed([memory]).draw_labels(len(ctx.gen_z), ctx.numpy_rng('remind/labels'))
        c = misc.to_device(torch.from_numpy(c), ctx.gen_z.device)
        z = ctx.randn_like(ctx.gen_z, 'remind/z')
        now = self.game.generate(ctx, z, c, 'remind', update_w_avg=False).img
        with torch.no_grad():
            then = self.game.generate(ctx, z, c, 'remind', update_w_avg=False, G=self.game.frozen[TEACHER]).img
        rho = remind_distance(now, then, self.options.metric)                       # [N]
        training_stats.report('Loss/tdgan/remind', rho)
        return rho * (self.options.remind * (len(memory) if self.options.memory == 'sum' else 1))

    def describe(self) -> dict:
        """The centres of the schedule, but not where their data
        are, and the labels of those that have been on line."""
        scheduled = [centre for centre in self._centres
                     if any(centre.index in ids for ids, _ in self._schedule)]
        seen = [centre for centre in self._centres if centre.labels is not None and centre.code is not None]
        labels = dict(centre_labels=[centre.describe() for centre in seen]) if seen else {}
        return dict(centres=dict(centre.without_path() for centre in scheduled), **labels)

    def state_dict(self) -> dict:
        return dict(labels={c.index: c.labels for c in self._centres if c.labels is not None},
                    num={c.index: c.num for c in self._centres}, nimg=self._nimg, early=dict(self._early),
                    stage=self._stage.number if self._stage else 0)

    def load_state_dict(self, state: dict) -> None:
        for index, labels in state['labels'].items():
            self._centres[index].labels = tuple(np.asarray(part) for part in labels)
        for index, num in state['num'].items():
            self._centres[index].num = num
        self._kept = state.get('kept', {})      # Of an earlier version; now it is shared.
        self._nimg, self._early = state['nimg'], dict(state.get('early', {}))
        for number, nimg in self._early.items():
            self._stages[number].end_nimg = nimg
        begun = [stage.number for stage in self._stages if stage.begin_nimg < self._nimg]
        number = state.get('stage', max([0, *begun]))        # Earlier versions did not say.
        if self._hub is not None and self._nimg > 0 and number not in self._early:
            self._hub.require_states(self._nimg, self._schedule[number][0])

    def shared_state_dict(self) -> dict:
        return dict(kept=self._kept)

    def load_shared_state_dict(self, state: dict) -> None:
        self._kept = state['kept']


def remind_distance(now: Tensor, then: Tensor, metric: str = 'l1') -> Tensor:
    """Mean absolute or squared difference of images [N,C,H,W] over all entries, [N]."""
    difference = now - then
    return (difference.abs() if metric == 'l1' else difference.square()).mean([1, 2, 3])
