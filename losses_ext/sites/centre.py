"""What the program of a data centre is made of."""
from losses_ext.sites.agreement import Kind
from losses_ext.sites.centre_page import Page
from losses_ext.sites.hardening import Hardening
from losses_ext.sites.limits import Limits
from losses_ext.sites.take_part import Centre, Participant, Refused
from training.run.health import CannotGoOn

__all__ = ['CannotGoOn', 'Centre', 'Hardening', 'Kind', 'Limits', 'Page', 'Participant', 'Refused']
