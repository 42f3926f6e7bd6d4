"""A centre: its images, its critics, and what it does for a request of the generator's site.

Critics, optimizers, augmentation and images are those of a run on one machine, made by the same code of the same configuration.
G is not: in its place is a `Mailbox`, which gives what has come.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from losses_ext.sites import agreement
from losses_ext.sites.agreement import Kind
from losses_ext.sites.hardening import Hardening
from losses_ext.sites.mailbox import Mailbox
from torch_utils import training_stats
from torch_utils.checkpoint import CheckpointError
from torch_utils.state_file import load_state, save_state
from torch_utils.wire.message import BadMessage, Header, Message, TensorForm
from training import setup
from training.data.storage import DatasetError
from training.loss import Phase, StepContext
from training.player import Player
from training.run import states
from training.run.health import CannotGoOn, Diverged, Health
from training.run.shares import name_of
from training.training_loop import finish_phase


@dataclass
class Session:
    """Where the generator's site and this centre are: the last request, and what was answered to it."""
    number: int = 0
    step: int = 0
    digest: bytes = b''
    answer: Message | None = None


@dataclass
class Place:
    """Where in the run the critics are."""
    stage: int = -1             # -1: they have never been on line.
    nimg: int = 0
    batch_idx: int = -1         # Of the iteration that is going on.
    due: bool = False           # Is there something to do at its end?
    order: int = 0              # Of the reals.
    has_left: bool = False      # Is the stage over for this centre?


class StaysHere(CannotGoOn):
    """The sentence names files of this centre, and perhaps of its images: the other end is told `outside` instead."""
    outside = 'its images or saved states cannot be read or written; its own output says which'


class Seat:
    """One centre in one run. `config` has been agreed on, and says at which centre this is.

    Raises ValueError for what does not fit together.
    """

    def __init__(self, config: dict, index: int, kinds: Mapping[str, str], device: torch.device, private: Path,
                 hardening: Hardening, on_stage: Callable[['Seat'], None] = lambda seat: None,
                 share: Callable[..., dict] | None = None, override: bool = False):
        self.config, self.index, self.device, self.private, self.kinds = config, index, device, private, dict(kinds)
        self.session = Session()
        self.health = Health()
        self.place = Place()
        self._hardening, self._on_stage, self._share, self._override = hardening, on_stage, share, override
        private.mkdir(parents=True, exist_ok=True)
        self._build()

    def _build(self) -> None:
        """The critics as they are before everything. G is built as well, since both draw on one row of random numbers."""
        training_stats.reset()
        self.run = setup.build(self.config, self.device)
        self.feat_channels = dict(getattr(self.run.game.G.module.synthesis, 'channels', {}))
        self.mailbox = Mailbox()
        self.run.game.G.module, self.run.game.G_ema, self.run.game.G.is_here = self.mailbox, None, False
        self.run.game.style_mixing_prob = 0
        self.phases = {phase.name: phase for phase in self.run.phases}
        self.place, self._reals, self._taken = Place(), None, None

    @property
    def source(self) -> int:
        """Which of the sources of its stage this centre is."""
        indices = [centre.index for centre in self.run.stages[self.place.stage].sources]
        return indices.index(self.index)

    @property
    def here(self) -> Any:
        """What the run knows of this centre. Raises ValueError."""
        found = [centre for stage in self.run.stages for centre in stage.sources if centre.index == self.index]
        if not found:
            raise ValueError('the schedule of the run has no stage for this centre')
        return found[0]

    @cached_property
    def fingerprint(self) -> str:
        """Of the images and labels, as they were when this process first looked."""
        return self.here.dataset.fingerprint()

    def contents(self) -> tuple[int, tuple]:
        """(number of images, (labels, how many images have them))."""
        centre = self.here
        if centre.labels is None:
            centre.note_contents()
        return centre.num, centre.labels

    # Requests.

    def forms(self, header: Header) -> Mapping[str, TensorForm]:
        """What may come in a request."""
        images = dict(img=agreement.image_form(self.config, self.kinds['images']),
                      c=agreement.label_form(self.config, self.config['batch_gpu']))
        size = self.config['batch_gpu']
        feats = {f'feat{res}': TensorForm(torch.float32, (size, self.feat_channels[res], res, res),
                                          (True, False, False, False))
                 for res in sorted(self.run.game.tap_G)}
        without = dict.fromkeys((Kind.ENTER, Kind.LEARN_FROM_REALS, Kind.MEASURED, Kind.MOMENTS, Kind.SAVE, Kind.LEAVE,
                                 Kind.END, Kind.REFUSED), {})
        learn = {**images, **feats}
        return agreement.of_kinds({Kind.JUDGE: images, Kind.LEARN: learn, Kind.JUDGE_AND_LEARN: learn, **without})(header)

    def answer(self, request: Message) -> Message:
        """What this centre answers; the same again to the request that it has answered last.

        Raises BadMessage for a request that fits nothing, CannotGoOn.
        """
        header, session = request.header, self.session
        if header.session == session.number and header.step == session.step and request.digest == session.digest:
            return session.answer
        if header.kind == Kind.ENTER:
            session = Session(header.session, header.step - 1)
        elif self.place.stage < 0 or self.place.has_left:
            raise BadMessage('the request is one within a stage, and there is none now')
        if header.session != session.number or header.step != session.step + 1:
            raise BadMessage('the request is not the one that follows')
        try:
            values, tensors = self._done(request)
        except Diverged as error:
            raise CannotGoOn(str(error)) from error
        except (DatasetError, CheckpointError, OSError) as error:
            raise StaysHere(str(error)) from error
        except torch.OutOfMemoryError as error:
            raise CannotGoOn('its memory does not suffice for so many images at once; a smaller --batch-gpu helps') from error
        answer = Message(replace(header, kind=Kind.ANSWER, answers=request.digest), values, tensors)
        self.session = Session(header.session, header.step, request.digest, answer)
        return answer

    def _done(self, request: Message) -> tuple[dict, dict]:
        """(values, tensors) of the answer."""
        act = {Kind.ENTER: self._enter, Kind.JUDGE: self._judge, Kind.LEARN: self._learn,
               Kind.LEARN_FROM_REALS: self._learn, Kind.JUDGE_AND_LEARN: self._judge_and_learn, Kind.SAVE: self._save,
               Kind.LEAVE: self._leave, Kind.MEASURED: self._measured, Kind.MOMENTS: self._moments}[request.header.kind]
        grad: dict[str, Tensor] = {}
        with training_stats.noted() as notes:
            values = act(request, grad) or {}
        signs = torch.zeros([0, 2])
        if request.header.kind == Kind.JUDGE_AND_LEARN:      # The step is one with that of G, which is counted where G is.
            notes = [note for note in notes if note[0] != 'Progress/nonfinite_grads']
        if request.header.kind in (Kind.JUDGE, Kind.LEARN, Kind.LEARN_FROM_REALS, Kind.JUDGE_AND_LEARN):
            critics = self.run.game.critics_of(self.source)
            signs = torch.stack([critic.real_signs.cpu().float() for critic in critics])
            for critic in critics:
                critic.real_signs.zero_()
        rows = torch.tensor([moments for _, moments in notes], dtype=torch.float64).reshape(-1, 3)
        return {**values, 'statistics': [name for name, _ in notes]}, dict(statistics=rows, signs=signs, **grad)

    # Stages.

    def _enter(self, request: Message, _: dict) -> None:
        values = request.values
        number = agreement.whole(values, 'stage', len(self.run.stages) - 1)
        nimg = agreement.whole(values, 'nimg', self.run.total_nimg)
        if self.index not in [centre.index for centre in self.run.stages[number].sources]:
            raise BadMessage('this centre is not on line in that stage')
        resumed = values.get('resumed') is True
        if resumed:
            self._load(nimg)
            if self.place.stage != number:
                raise BadMessage('the state is one of another stage')
        else:
            early = values.get('early')
            if not isinstance(early, list) or not all(type(stage) is int for stage in early):
                raise BadMessage('it is not said which stages have ended early')
            self._go_to_start_of(number, nimg, set(early))
        self.place.order = agreement.whole(values, 'order', 1000)
        self.run.nimg = self.place.nimg = nimg
        self.run.stage_idx = self.place.stage = number
        for regularizer in self.run.game.having('begin_stage'):
            regularizer.begin_stage(self.run.stage, agreement.whole(values, 'seed', 2 ** 64 - 1), resumed=resumed)
        self.place.batch_idx, self.place.due, self.place.has_left = -1, False, False
        self._stream = setup.open_reals(self.config, self.run.stage.sources[self.source].dataset, self.device, nimg,
                                        self.place.order)
        self._on_stage(self)

    def _go_to_start_of(self, number: int, nimg: int, early: set) -> None:
        """The critics as they were when this centre was last on line before a stage, or as they are made. Of a stage that has
        ended early the last state may be any, or none."""
        self._end_iteration()
        earlier = [i for i, stage in enumerate(self.run.stages[:number]) if self.index in [c.index for c in stage.sources]]
        stage_of = {meta['nimg']: meta.get('stage') for _, meta in states.readable_states(self.private)}
        newest = max((n for n in stage_of if n <= nimg), default=None)
        for last in reversed(earlier):
            is_exact = self.place.has_left or self.place.nimg == nimg
            if self.place.stage == last and (is_exact or (last in early and self.place.nimg <= nimg)):
                return
            if newest is not None and stage_of[newest] == last:
                self._load(newest)
                for regularizer in self.run.game.having('begin_stage'):
                    regularizer.begin_stage(self.run.stages[last], 0, resumed=True)
                return
            if last not in early:
                raise CannotGoOn(f'it has no state of the end of stage {last}')
            print(f'Nothing is left here of stage {last}, which ended early.', flush=True)
        self._build()

    def _leave(self, request: Message, _: dict) -> None:
        self._end_iteration()
        self.place.has_left, self._stream = True, None
        if self.place.nimg not in self.saved():
            self._write()
        for centre in self.run.stages[self.place.stage].sources:
            centre.close()

    # Steps.

    def _judge(self, request: Message, grad: dict) -> dict:
        """What G's loss by this centre's critics wants of fakes."""
        phase, ctx = self._context(request)
        if phase.critic is not None or not phase.every_source:
            raise BadMessage(f'{phase.name} is no phase in which G learns from critics')
        img = self.mailbox.img.requires_grad_()
        grads: list[Tensor] = []            # As it arrives: `img.grad` would have the layout of `img`.
        img.register_hook(grads.append)
        if phase.name not in self.judging:
            raise BadMessage(f'{phase.name} is no phase in which critics judge without learning')
        self.judging[phase.name](self.run.game, ctx)
        return self._leaving(grads[0] if grads else torch.zeros_like(img), grad)

    def _leaving(self, image_grad: Tensor, grad: dict) -> dict:
        """An image gradient [N,C,H,W] as it leaves, into `grad`; returns what is said of it."""
        found = self._hardening.applied(image_grad)
        grad['grad'] = found.contiguous().cpu().to(agreement.GRAD_TYPES[self.kinds['grads']])
        return dict(nhwc=not found.is_contiguous() and found.is_contiguous(memory_format=torch.channels_last))

    def _judge_and_learn(self, request: Message, grad: dict) -> dict:
        """Both at once: the critics' part of a step in which they and G learn of the same fakes."""
        phase, ctx = self._context(request)
        if not hasattr(phase.step, 'at_critics'):
            raise BadMessage(f'{phase.name} is no phase in which all learn of the same fakes')
        game, critics = self.run.game, self.run.game.critics_of(self.source)
        self._begin_phase(ctx, critics)
        ctx.gen = game.generate(ctx, ctx.gen_z, ctx.gen_c)
        found = phase.step.at_critics(game, ctx)
        game.extra(0, ctx, 'g_main')            # For methods that keep the fakes; terms of G are where G is.
        if self._end_phase(request, ctx, critics):
            found = found * float('nan')        # Nobody takes this step: G does not, either.
        return self._leaving(found, grad)

    def _measured(self, request: Message, _: dict) -> None:
        if self.run.game.shares is not None:
            self.run.game.shares.end_iteration()

    def _moments(self, request: Message, tensors: dict) -> dict:
        """Moments of the features of this centre's images, if it gives them."""
        kwargs, taps = self.run.stage.sources[self.source].dataset_kwargs, request.values.get('taps')
        try:
            if self._share is None:
                raise ValueError('it does not share moments')
            found = self._share(request.values, kwargs, self.device, str(self.private.parent / 'features'))
        except ValueError as error:
            empty = agreement.moments_forms(dict.fromkeys(map(str, taps[:16]), 0) if isinstance(taps, list) else {})
            tensors.update({name: torch.zeros(form.shape, dtype=form.dtype) for name, form in empty.items()})
            return dict(text=str(error))
        for tap, (_, mean, scatter) in found.items():
            tensors.update({f'{tap}.mean': mean.cpu().double(), f'{tap}.scatter': scatter.cpu().double()})
        return dict(num=next(iter(found.values()))[0])

    @property
    def judging(self) -> dict[str, Callable]:
        """The step that has G's loss by its critics, for each phase that has it."""
        from training.loss import g_both, g_main
        return {phase.name: g_main for phase in self.run.phases if phase.step in (g_main, g_both)}

    def _learn(self, request: Message, _: dict) -> dict:
        """One micro-batch of a critic's phase; after the last one the critic takes its step."""
        phase, ctx = self._context(request)
        critic = phase.critic
        if critic is None or critic.source != self.source:
            raise BadMessage(f'{phase.name} is no phase of this centre')
        self._begin_phase(ctx, [critic])
        phase.step(self.run.game, ctx)
        self._end_phase(request, ctx, [critic])
        return {}

    def _begin_phase(self, ctx: StepContext, critics: list[Player]) -> None:
        """What comes before the first micro-batch of a phase in which critics learn."""
        step = ctx.batch_idx, ctx.phase.name
        if ctx.round == 0:
            if step == self._taken:
                raise BadMessage(f'the step of {ctx.phase.name} has been taken')
            for critic in critics:
                critic.optimizer.zero_grad(set_to_none=True)
                critic.module.requires_grad_(True)

    def _end_phase(self, request: Message, ctx: StepContext, critics: list[Player]) -> bool:
        """What follows a micro-batch, and after the last one the step; returns whether that was left out, as the gradient is
        not finite."""
        if self.run.game.shares is not None:
            self.run.game.shares.note_step(ctx)
        if request.values.get('last') is not True:
            return False
        for regularizer in self.run.game.having('end_phase'):
            regularizer.end_phase(ctx.phase)
        self._taken = ctx.batch_idx, ctx.phase.name
        is_broken = finish_phase(critics)
        self.health.note_step(ctx.phase.name, is_broken)
        return is_broken is not None and bool(is_broken)

    def _context(self, request: Message) -> tuple[Phase, StepContext]:
        """The phase and the micro-batch that a request is about."""
        values, run = request.values, self.run
        phase = self.phases.get(values.get('phase')) if isinstance(values.get('phase'), str) else None
        if phase is None or self.place.stage < 0:
            raise BadMessage('there is no such phase')
        self._begin_iteration(request.header.iteration, agreement.whole(values, 'nimg'))
        num, number = agreement.whole(values, 'num', self.config['batch_gpu']), agreement.whole(values, 'round', 10 ** 6)
        img, c = (part[number * num:(number + 1) * num] for part in self._reals)
        if num == 0 or len(img) != num:
            raise BadMessage('there is no such micro-batch')
        self._open_mail(request, num)
        if hasattr(run.game.augment, 'p'):
            run.game.augment.p.copy_(torch.tensor(agreement.real(values, 'p')))
        self._hear(values.get('told'))
        weights = values.get('weights')
        critics = run.game.critics_of(self.source)
        if not isinstance(weights, list) or len(weights) != len(critics):
            raise BadMessage('there are not as many weights as critics')
        for critic, weight in zip(critics, weights):
            critic.weight = agreement.real({'weight': weight}, 'weight')
        fake_c = request.tensors['c'].to(self.device) if 'c' in request.tensors else torch.zeros([num, 0], device=self.device)
        ctx = StepContext(run.game, phase, run.randomness, run.nimg, self.place.batch_idx,
                          remaining=1 - run.nimg / run.total_nimg, round=number, source=self.source,
                          share=agreement.real(values, 'share', 0, 1))
        run.game.take_reals(ctx, img, c)
        ctx.gen_z, ctx.gen_c, ctx.fake_c = torch.zeros([num, 0], device=self.device), fake_c, fake_c
        return phase, ctx

    def _hear(self, told: Any) -> None:
        """Gives methods the numbers that are found where G is: those that they would tell themselves."""
        for method in self.run.game.having('hear_from_generator'):
            numbers = told.get(name_of(method)) if isinstance(told, Mapping) else None
            if not isinstance(numbers, Mapping) or numbers.keys() != method.tell_critics().keys():
                raise BadMessage('the request lacks what methods must be told, or says more')
            method.hear_from_generator({name: agreement.real(numbers, name, 0, 1) for name in numbers})

    def _open_mail(self, request: Message, num: int) -> None:
        """Puts what has come where steps look for what G makes."""
        tensors = request.tensors
        if any(len(tensor) != num for tensor in tensors.values()):
            raise BadMessage('there are not as many fakes as the request says')
        self.mailbox.img, self.mailbox.feats = None, {}
        if 'img' in tensors:
            img = agreement.unpacked_images(tensors['img'], self.kinds['images']).to(self.device)
            self.mailbox.img = img.to(memory_format=torch.channels_last) if request.values.get('nhwc') is True else img
            kind = {'float16': torch.float16, 'bfloat16': torch.bfloat16}.get(request.values.get('feats'), torch.float32)
            self.mailbox.feats = {int(name.removeprefix('feat')): tensor.to(self.device, kind)
                                  for name, tensor in tensors.items() if name.startswith('feat')}

    def _begin_iteration(self, batch_idx: int, nimg: int) -> None:
        """The next batch of reals, if a request is the first one of an iteration."""
        if batch_idx == self.place.batch_idx:
            if nimg != self.run.nimg:
                raise BadMessage('the request is about another iteration')
            return
        self._end_iteration()
        if nimg != self.place.nimg:
            raise BadMessage('the request is about another iteration than the one that follows')
        self._reals = self._stream.next_batch()
        self.run.nimg, self.run.batch_idx = nimg, batch_idx
        self.place.batch_idx, self.place.due = batch_idx, True

    def _end_iteration(self) -> None:
        """What follows the steps of an iteration."""
        if self.place.due:
            self.place.due = False
            self.place.nimg = self.run.nimg + self.config['batch']
            for regularizer in self.run.game.having('end_iteration'):
                regularizer.end_iteration(self.place.nimg, self.place.batch_idx + 1)

    # States.

    def saved(self) -> list[int]:
        """Numbers of images after which a state is saved."""
        return sorted(int(states.STATE_NAME.fullmatch(path.name)[1]) for path in states.saved_states(self.private))

    def _save(self, request: Message, _: dict) -> None:
        self._end_iteration()
        nimg = agreement.whole(request.values, 'nimg')
        if nimg != self.place.nimg:
            raise BadMessage('the state to save is not the one that is here')
        self._write()
        self._prune(request.values.get('keep'), nimg)

    def _write(self) -> None:
        """Saves the state. Raises Diverged if the critics have stopped learning."""
        list(self.health.end_tick({}))
        path, state = states.state_path(self.private, self.place.nimg), self.state_dict()
        states.require_space(self.private, states.num_bytes(state), path.name)
        save_state(path, state, nimg=self.place.nimg, stage=self.place.stage)

    def _prune(self, keep: Any, newest: int) -> None:
        """Removes states that the generator's site no longer has, but for the last one of every stage."""
        if not isinstance(keep, list) or not all(type(nimg) is int for nimg in keep):
            return
        last = {}
        for _, meta in states.readable_states(self.private):
            last.setdefault(meta.get('stage'), meta['nimg'])
        for nimg in set(self.saved()) - {*keep, *last.values(), newest}:
            states.state_path(self.private, nimg).unlink()

    def state_dict(self) -> dict:
        """All that this centre must remember."""
        game = self.run.game
        return dict(critics={critic.name: critic.state_dict() for critic in game.critics_of(self.source)},
                    regularizers={type(r).__name__: [r.state_dict(), r.shared_state_dict()] for r in game.regularizers},
                    place=dict(stage=self.place.stage, nimg=self.place.nimg, data=self.fingerprint))

    def _load(self, nimg: int) -> None:
        """Goes back to a saved state. Raises CannotGoOn."""
        path = states.state_path(self.private, max(nimg, 0))
        if not path.exists():
            raise CannotGoOn(f'it has no state after {max(nimg, 0)} images')
        state, _ = load_state(path)
        known = state['place'].get('data', self.fingerprint)        # Older states lack it.
        if known != self.fingerprint and not self._override:
            raise CannotGoOn('its images or labels have changed since it saved its state; with --override, which '
                             'its own program takes, it goes on with them as they are now')
        self._build()
        self.place = Place(state['place']['stage'], state['place']['nimg'])
        for name, critic in state['critics'].items():
            self.run.game.critics[name].load_state_dict(critic)
        for regularizer in self.run.game.regularizers:
            own, shared = state['regularizers'][type(regularizer).__name__]
            regularizer.load_state_dict(own)
            regularizer.load_shared_state_dict(shared)
