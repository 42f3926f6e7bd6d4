"""How a wheel is built: the programs and their modules go into the one package `loss_zoo`
(loss_zoo/programs.py says why).

A checkout that is installed with `pip install -e` is used as it lies.
"""
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProgramsInPackage(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != 'editable':
            build_data['force_include'].update({name: f'loss_zoo/_programs/{name}'
                                                for name in self.config['programs']})
