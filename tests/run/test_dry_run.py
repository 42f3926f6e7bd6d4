"""The tables of a dry run: what they say is what the trainer will do."""
import pytest
import torch
from click.testing import CliRunner
from tiny import ALL_PHASES, make_config, make_dataset

import losses_ext
import train
from training import setup
from training.run.dry_run import plan


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'faces.zip', num=8, res=32)


def rows(text, heading):
    """[cells] of the lines of the table that begins with this word."""
    lines = text.split(f'\n{heading} ')[1].split('\n\n')[0].splitlines()[1:]
    return [[cell.strip() for cell in line.split('  ') if cell] for line in lines]


def dry_run(data, *args):
    asked = ['--outdir=runs', f'--data={data}', '--cfg=tiny', *ALL_PHASES, '--aug=noaug', '-n', *args]
    result = CliRunner().invoke(train.main, asked)
    assert result.exit_code == 0, result.output
    return result.output.replace('Dry run', '\n\nDry run')


def test_a_dry_run_of_two_stages_shows_players_methods_and_phases(data):
    text = dry_run(data, '--reg_type=diggan,weco,ggdr,apa', '--apa_p=0', '--gamma=2')
    assert '\nLoss: logistic\n' in text
    players = {name: row for name, _, *row in rows(text, 'Player')}
    assert players == {             # 0.005 * 4/5 and 0.99 ** (4/5); 0.005 * 16/17 and 0.99 ** (16/17).
        'G': ['0.004', '0, 0.991992', '4/5'], 'D': ['0.00470588', '0, 0.990585', '16/17'],
        'D2': ['0.00470588', '0, 0.990585', '16/17']}
    methods = {name: row for name, *row in rows(text, 'Method')}
    assert methods['DigGAN'] == ['d_pair', '4', '4', 'weight=10 interval=4 pair=sample wrt=aug ema=0']    # 5 * gamma.
    assert methods['GGDR'] == ['d_fake', '1', '1', 'weight=10 res=8 warp=aligned published=False']        # 32 / 4.
    assert methods['R1'] == ['d_reg', '16', '16', 'gamma=2 interval=16']
    assert methods['APA'][0] == 'nowhere: off'
    assert rows(text, 'Phase') == [
        ['Gmain', '1', '1', 'G'], ['Greg', '4', '4', 'G'], ['Dmain', '1', '1', 'D'], ['Dreg', '16', '16', 'D'],
        ['D2main', '1', '1', 'D2'], ['D2reg', '16', '16', 'D2']]


def test_a_dry_run_of_one_stage_shows_that_both_players_learn_at_once(data):
    text = dry_run(data, '--loss=osgan', '--osgan_game=hinge')
    assert '\nLoss: osgan game=hinge form=exact' in text
    assert rows(text, 'Phase') == [['GDmain', '1', '1', 'G, D'], ['Greg', '4', '4', 'G'], ['Dreg', '16', '16', 'D']]


@pytest.mark.parametrize('intervals', [(4, 16), (None, None), (2, None)])
def test_the_plan_is_what_the_run_is_made_of(data, intervals):
    config = make_config(data, res=32, G_reg_interval=intervals[0], D_reg_interval=intervals[1],
                         regularizers=dict(daco={}, genco={}, r2=dict(gamma=3.0)))
    losses_ext.configure(config, {})
    text = plan(config) + '\n\n'
    run = setup.build(config, torch.device('cpu'))
    assert rows(text, 'Phase') == [
        [phase.name, str(phase.interval), str(phase.interval), ', '.join(player.name for player in phase.players)]
        for phase in run.phases]
    for player, row in zip(run.game.players, rows(text, 'Player'), strict=True):
        group = player.optimizer.param_groups[0]
        num = sum(parameter.numel() for parameter in player.module.parameters())
        assert row[:3] == [player.name, f'{num:,}', f'{group["lr"]:.6g}']
        assert [float(beta) for beta in row[3].split(', ')] == pytest.approx(group['betas'], rel=1e-5)
