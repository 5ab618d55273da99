"""What would be best: which peers make the chain, who fills a hole, which layers to serve. Pure functions of announcements; no I/O, no clock, no torch."""

from swarm.routing.explain import explain
from swarm.routing.load import Ledger, Load
from swarm.routing.placement import choose_spans
from swarm.routing.plan import choose_class, plan, repair
from swarm.routing.route import USUAL_OUTPUT, Leg, Request, Route
from swarm.routing.table import PeerView

__all__ = ["USUAL_OUTPUT", "Ledger", "Leg", "Load", "PeerView", "Request", "Route", "choose_class", "choose_spans", "explain", "plan", "repair"]
