"""Networks from layers as in a configuration."""

from dwp.nn.spec import Network
from dwp.pipeline.typed import parse


def described(layers, **more):
    """Return a network of layers such as {'conv': 4, 'kernel': 7}, by default without batch norm."""
    return parse(Network, {"layers": layers, "batch_norm": False, **more})
