"""TDGAN between sites: processes of their own for the centres, over gRPC and mutual TLS on this machine.

What is trained is compared, bit by bit, with a run that has all centres in one process.
"""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_tools import TinyDetector
from site_runs import BASE, Sites, assert_equal_runs
from tiny import assert_same_bits, make_dataset

import train
from losses_ext.sites import hub as hubs
from losses_ext.sites.hardening import Hardening
from metrics.features import FeatureOptions, feature_moments
from metrics.image_streams import DatasetImages
from metrics.images_elsewhere import ImagesElsewhere
from metrics.names import MetricError, find_metric
from training.config.rules import UserError
from training.dataset import ImageFolderDataset
from training.loss import Game
from training.run.health import CannotGoOn


@pytest.fixture(scope='module')
def sites(tmp_path_factory):
    found = Sites(tmp_path_factory.mktemp('sites'))
    yield found
    found.close()


@pytest.mark.parametrize('args', [
    ['--tdgan_schedule=0:0.032'],
    ['--tdgan_schedule=0:0.016,0+1:0.016,1:0.016,0:0.016', '--tdgan_d=keep', '--batch-gpu=4', '--ada-kimg=0.1',
     '--r1_interval=2'],
    ['--tdgan_schedule=0+1:0.032', '--cond=1', '--reg_type=tdgan,apa', '--apa_kimg=0.02', '--aug=noaug'],
    ['--tdgan_schedule=0:0.016,0+1:0.032', '--cond=1', '--loss=osgan', '--batch-gpu=4', '--r1_interval=2',
     '--reg_type=tdgan,ggdr,apa'],
], ids=['one centre', 'on line together, in turn, and back again', 'labels and APA', 'OSGAN'])
def test_a_run_between_sites_is_the_local_run_bit_for_bit(sites, args):
    assert_equal_runs(sites, *args)


def test_critics_of_several_centres_judge_at_the_same_time(sites, monkeypatch):
    waiting, answer = [], hubs.Hub._answer

    def counted(hub, pending):
        waiting.append([p.message.header.kind for p in hub._pending].count(hubs.Kind.JUDGE))
        return answer(hub, pending)

    monkeypatch.setattr(hubs.Hub, '_answer', counted)
    sites.train(True, '--tdgan_schedule=0+1:0.016')
    assert max(waiting) == 2


class Link(torch.autograd.Function):
    """What happens to fakes on their way to a critic, and to their gradients on the way back."""

    @staticmethod
    def forward(ctx, img, there, back):
        ctx.back = back
        return there(img)

    @staticmethod
    def backward(ctx, grad):
        return ctx.back(grad), None, None


def as_bfloat16(x):
    return x.to(torch.bfloat16).float()


def as_uint8(x):
    return (127.5 * x + 128).floor().clamp(0, 255) / 127.5 - 1


def clipped(grad, most=1e-3):
    norms = grad.flatten(1).norm(dim=1)
    assert (norms > most).any()
    return torch.stack([g * (most / norm) if norm > most else g for g, norm in zip(grad, norms)])     # [N,C,H,W]


@pytest.mark.parametrize('args, there, back', [
    (['--tdgan_images=bfloat16', '--tdgan_grads=bfloat16'], as_bfloat16, as_bfloat16),
    (['--tdgan_images=uint8', '--tdgan_grad_clip=1e-3'], as_uint8, clipped),
], ids=['bfloat16', 'uint8, cut off'])
def test_images_and_gradients_travel_as_asked_and_nothing_else_changes(sites, monkeypatch, args, there, back):
    remote, _ = sites.train(True, '--tdgan_schedule=0:0.016', *args)
    judge = Game.judge_fakes

    def over_a_link(game, ctx, *more, **how):
        ctx.gen = replace(ctx.gen, img=Link.apply(ctx.gen.img, there, back))
        return judge(game, ctx, *more, **how)

    monkeypatch.setattr(Game, 'judge_fakes', over_a_link)
    local, _ = sites.train(False, '--tdgan_schedule=0:0.016')
    assert_same_bits(remote.game.G.state_dict(), local.game.G.state_dict())


def test_a_gradient_is_cut_off_image_by_image_and_noise_is_of_the_machine():
    grad = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 1e-3), torch.full((3, 4, 4), 2.0)])
    found = Hardening(clip=1.0).applied(grad)
    assert torch.equal(found[:2], grad[:2]) and abs(found[2].norm() - 1) < 1e-6
    noise = []
    for _ in range(2):
        torch.manual_seed(0)
        noise.append(Hardening(noise=0.5).applied(torch.zeros(64, 3, 8, 8)))
    assert not torch.equal(*noise) and abs(noise[0].std() - 0.5) < 0.05
    assert torch.equal(Hardening().applied(grad), grad)


@pytest.mark.parametrize('own, asked, both', [
    ((None, 0.0), (None, 0.0), (None, 0.0)), ((2.0, 0.0), (None, 0.1), (2.0, 0.1)), ((2.0, 0.3), (1.0, 0.1), (1.0, 0.3)),
    ((None, 0.0), (1.0, 0.0), (1.0, 0.0))])
def test_the_stricter_of_what_centre_and_run_want_is_done(own, asked, both):
    assert Hardening(*own).and_also(*asked) == Hardening(*both)


def test_a_stage_ends_early_when_a_centre_stays_away_and_the_centre_can_come_back(sites, monkeypatch, capsys):
    end_iteration, begin_stage = hubs.Hub.end_iteration, hubs.Hub.begin_stage

    def killed_once(hub, nimg, batch_idx):
        end_iteration(hub, nimg, batch_idx)
        if nimg == 16:
            sites.end('north')
            hub._patience = 1

    def started_again(hub, stage, *more):
        if stage.number == 1:
            hub._patience = 900
            sites.start('north')
        begin_stage(hub, stage, *more)

    monkeypatch.setattr(hubs.Hub, 'end_iteration', killed_once)
    monkeypatch.setattr(hubs.Hub, 'begin_stage', started_again)
    run, _ = sites.train(True, '--tdgan_schedule=0+1:0.064,1:0.016,0:0.016', '--tdgan_d=keep')
    said = capsys.readouterr().out
    assert 'The centre north has been away for 1 seconds (--tdgan_patience): stage 0 ends early' in said
    assert [stage.end_nimg for stage in run.stages] == [24, 80, 96] and run.nimg == 96
    assert set(sites.critics(run)) == {'D'}                  # It was there again, in the last stage.


def test_a_centre_that_never_comes_is_left_out_and_the_run_stops_if_it_has_no_other_stage(sites, monkeypatch):
    begin_stage = hubs.Hub.begin_stage

    def without_patience_at_first(hub, stage, *more):
        hub._patience = 0 if stage.number == 0 else 900
        begin_stage(hub, stage, *more)

    sites.end('north')
    monkeypatch.setattr(hubs.Hub, 'begin_stage', without_patience_at_first)
    try:
        run, _ = sites.train(True, '--tdgan_schedule=0:0.064,1:0.016')
        assert [stage.end_nimg for stage in run.stages] == [0, 80] and run.nimg == 80
        with pytest.raises(CannotGoOn, match='the centre north has been away for 0 seconds'):
            sites.train(True, '--tdgan_schedule=0:0.064')
    finally:
        sites.start('north')


@pytest.mark.slow
@pytest.mark.parametrize('args', [
    ['--tdgan_schedule=0+1:0.032', '--reg_type=tdgan,ggdr,diggan,weco,daco,lecam,r2', '--diggan_interval=1'],
    ['--tdgan_schedule=0:0.032', '--loss=hinge', '--aug=noaug'],
    ['--tdgan_schedule=0:0.032', '--loss=relativistic', '--reg_type=tdgan,r2', '--aug=noaug', '--r2_interval=1'],
    ['--tdgan_schedule=0:0.016,1:0.032', '--r1_interval=1', '--pl_interval=1', '--tdgan_warmup=0.008'],
    ['--tdgan_schedule=0+1:0.032', '--reg_type=tdgan,cr,bcr', '--cr_shift=0.1', '--bcr_shift=0.1'],
    ['--tdgan_schedule=0+1:0.032', '--reg_type=tdgan,ggdr,diggan,weco,daco,lecam', '--loss=osgan', '--diggan_interval=1'],
    ['--tdgan_schedule=0+1:0.032', '--loss=osgan', '--osgan_game=relativistic', '--aug=noaug', '--batch-gpu=4'],
    ['--tdgan_schedule=0+1:0.032', '--loss=osgan', '--osgan_form=simple', '--mbstd-group=0'],
], ids=['methods', 'hinge', 'relativistic', 'without lazy steps', 'consistency', 'OSGAN and methods', 'OSGAN, relativistic',
        'OSGAN by ratio'])
def test_what_may_be_combined_is_equal_as_well(sites, args):
    assert_equal_runs(sites, *args)


@pytest.mark.parametrize('args, sentence', [
    (['--reg_type=tdgan,zcr'], '--reg_type=zcr needs the critics'),
    (['--reg_type=tdgan,vision'], '--reg_type=vision needs the critics'),
    (['--loss=relativistic', '--cond=1', '--tdgan_labels=3', '--aug=noaug'], 'would have to leave the centre'),
    (['--metrics=fid50k'], '--metrics=fid50k needs moments of the first images of the centres'),
    (['--metrics=fid50k_full,pr50k3_full'], '--metrics=pr50k3_full needs the features of each image'),
    (['--metrics=kid50k_full'], '--metrics=kid50k_full needs'),
    (['--tdgan_data=a.zip'], 'exclude each other'),
    (['--tdgan_res=20'], 'a power of two'),
    (['--tdgan_centres=a,a'], 'must be different names'),
    (['--tdgan_listen=0.0.0.0:7300'], 'for both ends on one machine'),
    (['--tdgan_listen='], 'needs --tdgan_listen'),
    (['--gpus=2'], 'give --gpus=1'),
    (['--cond=1'], 'belong together'),
    (['--subset=5'], '--subset is about images on this machine'),
    (['--snapshot-format=native,pkl'], '--snapshot-format=pkl needs a critic'),
    (['--tdgan_mode=local', '--tdgan_data=a.zip'], '--tdgan_centres has no effect without'),
])
def test_what_cannot_be_divided_is_refused_by_name(args, sentence, tmp_path):
    if args == ['--tdgan_mode=local', '--tdgan_data=a.zip']:
        args = ['--tdgan_mode=local', f'--tdgan_data={make_dataset(tmp_path / "a.zip")}']
    given = [*BASE, '--tdgan_mode=remote', '--tdgan_centres=a,b', '--tdgan_listen=localhost:7300', '--tdgan_insecure=1',
             '--tdgan_res=16']
    with pytest.raises(UserError, match=sentence):
        train.config_from_args([*given, *args])


def test_metrics_get_moments_of_centres_that_allow_it_and_nothing_else(sites):
    metric, detector, found = find_metric('fd_efflite0'), TinyDetector(), {}

    def ask(run):
        for source in run.stage.sources:
            name, (shared, _) = source.centre
            try:
                found[name] = ImagesElsewhere(shared, metric).moments(detector, detector.fd_taps)
            except MetricError as error:
                found[name] = str(error)
        with pytest.raises(MetricError, match='pr_efflite0 needs the features of each image, and those of north'):
            ImagesElsewhere(run.stage.sources[0].centre[1][0], find_metric('pr_efflite0'))

    sites.train(True, '--tdgan_schedule=0+1:0.016', then=ask)
    images = DatasetImages(dict(class_name='training.dataset.ImageFolderDataset', path=sites.data[0]))
    expected = feature_moments(images, detector, detector.fd_taps, FeatureOptions(cache=False))
    assert set(found) == {'centre-0', 'centre-1'} and 'does not share moments' in found['centre-1']
    for tap, moments in expected.items():
        assert found['centre-0'][tap].num == moments.num == 24
        torch.testing.assert_close(found['centre-0'][tap].mean, moments.mean)
        torch.testing.assert_close(found['centre-0'][tap].cov(), moments.cov())


def test_old_runs_have_the_configuration_that_they_had(sites):
    options = sites.config(False)['regularizers']['tdgan']
    assert not options.keys() & {'mode', 'centres', 'listen', 'tls', 'insecure', 'patience', 'images', 'grads'}


def test_no_image_of_a_centre_has_left_it(sites):
    """An image is looked for, by its bytes and by likeness,
    in everything that left and in the run's directory."""
    from click.testing import CliRunner

    import tdgan_audit
    sites.train(True, '--tdgan_schedule=0:0.032')
    canary = np.stack([ImageFolderDataset(sites.data[0])[i][0] for i in range(24)])
    left = b''.join(path.read_bytes() for path in (sites.folder / 'wire-north').iterdir())
    kept = b''.join(path.read_bytes() for path in (sites.folder / 'run').iterdir())
    for image in canary:
        for form in (image, image.astype(np.float32), image.astype(np.float32) / 127.5 - 1):
            assert form.tobytes()[:300] not in left + kept
    assert str(sites.folder).encode() not in left and b'.zip' not in left + kept
    for _ in range(2):          # Its own file may be written again, another may not.
        result = CliRunner().invoke(tdgan_audit.main, [
            str(sites.folder / 'wire-north'), f'--data={sites.data[0]}', f'--out={sites.folder / "audit.json"}'])
        assert result.exit_code == 0 and 'grad' in result.output, result.output
    for taken in (sites.data[0], '/dev/null', sites.folder / 'none' / 'a.json'):
        result = CliRunner().invoke(tdgan_audit.main, [str(sites.folder / 'wire-north'), f'--out={taken}'])
        assert result.exit_code == 2 and f'--out: {taken}' in result.output, result.output
        assert 'grad' not in result.output
    found = json.loads((sites.folder / 'audit.json').read_text())
    assert set(found['kinds']) == {'hello', 'ready', 'answer'}
    assert found['nearest']['grad']['correlation'] < 0.9
