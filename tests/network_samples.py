"""Networks from plain layers, as a configuration gives them."""

from dwp.nn.spec import Network
from dwp.pipeline.typed import parse


def described(layers, **more):
    """Return a network of layers such as {'conv': 4, 'kernel': 7}, without batch norm unless asked for."""
    return parse(Network, {"layers": layers, "batch_norm": False, **more})
