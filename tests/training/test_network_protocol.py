"""The networks that there are have all that the protocol asks of a network."""
import inspect

import pytest
from zoo_game import make_game

from torch_utils.network_schema import CLASSES, classes_for, short_name
from training import network_protocol


def members(protocol):
    """{attribute: None, or the parameters of the method by name} of a protocol and its bases."""
    for base in protocol.__mro__:
        if base.__module__ == network_protocol.__name__:
            yield from dict.fromkeys(inspect.get_annotations(base)).items()
            yield from ((name, inspect.signature(value).parameters) for name, value in vars(base).items()
                        if inspect.isfunction(value) and (not name.startswith('_') or name == '__call__'))


@pytest.mark.parametrize(('protocol', 'pick'), [
    (network_protocol.Generator, lambda game: game.G.module), (network_protocol.Mapping, lambda game: game.G.module.mapping),
    (network_protocol.Synthesis, lambda game: game.G.module.synthesis), (network_protocol.Critic, lambda game: game.D.module)])
def test_our_networks_have_what_is_asked_of_networks(protocol, pick):
    network, asked = pick(make_game()), dict(members(protocol))
    assert '__call__' in asked
    for name, parameters in asked.items():
        assert hasattr(network, name), name
        if parameters is None:
            continue
        accepted = inspect.signature(network.forward if name == '__call__' else getattr(network, name)).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        assert takes_any or {*parameters} - {'self'} <= accepted.keys(), name


def test_short_names_are_told_apart():
    assert len({short_name(name) for name in CLASSES}) == len(CLASSES)
    assert classes_for('G') == {'Generator': 'training.networks.Generator', 'R3Generator': 'training.r3gan.R3Generator'}
    assert classes_for('D2') == {}
