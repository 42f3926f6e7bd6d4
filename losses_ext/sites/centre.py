"""What the programs of a data centre, and of both sides of a job, are made of."""
from losses_ext.sites.agreement import Kind
from losses_ext.sites.centre_page import Page
from losses_ext.sites.hardening import Hardening
from losses_ext.sites.hub import close_hubs
from losses_ext.sites.limits import Limits
from losses_ext.sites.seat import Seat
from losses_ext.sites.take_part import Centre, Participant, Refused
from training.run.health import CannotGoOn

__all__ = ['CannotGoOn', 'Centre', 'Hardening', 'Kind', 'Limits', 'Page', 'Participant', 'Refused', 'Seat', 'close_hubs']
