"""Kernels of the convolutions in ONNX models."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, from_numpy

from dwp.errors import InputError, extra

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

QUANTISED = ("QLinearConv", "ConvInteger")
# Operators through which a weight may pass on its way to a convolution.
UNCHANGED = ("Identity", "Cast")

logger = logging.getLogger(__name__)


def conv_weights(path: Path, size: int) -> Iterator[tuple[str, Tensor]]:
    """Yield name and weight [o, i, k, k] of every two-dimensional convolution (`Conv`) of size k.

    A weight that several convolutions share is yielded once. Quantised weights, and those that the
    model computes, are left out; a warning says how many.

    Raises:
        InputError: the file is damaged, or onnx is not installed.
    """
    with extra("onnx", f"kernels: {path}"):
        import onnx
    try:
        model = onnx.load(path, load_external_data=False)
        if model.functions:
            from onnx.inliner import inline_local_functions

            model = inline_local_functions(model)
    except Exception as error:  # from protobuf, whose exceptions have no common type
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"kernels: {path} cannot be read as ONNX ({reason})") from None
    if not model.graph.node:
        raise InputError(f"kernels: {path} is no ONNX model: it has no operators")
    tensors, skipped = _weights(model)
    for name, tensor in tensors.items():
        if tuple(tensor.dims[2:]) == (size, size) and len(tensor.dims) == 4:
            try:
                array = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
            except Exception as error:  # such as a missing file of external data
                raise InputError(
                    f"kernels: {path}: {name} cannot be read ({type(error).__name__}: {error})"
                ) from None
            yield name, from_numpy(np.array(array, dtype=np.float32))
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        logger.warning("kernels: %s: convolutions left out: %s", path, reasons)


def _weights(model: "ModelProto") -> tuple[dict[str, "TensorProto"], Counter[str]]:
    """Return the weights of convolutions by name, and how many are left out for each reason."""
    graphs = list(_graphs(model.graph))
    nodes = [node for graph in graphs for node in graph.node]
    tensors = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
    makers: dict[str, NodeProto] = {}
    for node in nodes:
        value = next((one.t for one in node.attribute if one.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensors[node.output[0]] = value
        else:
            makers |= dict.fromkeys(node.output, node)
    found: dict[str, TensorProto] = {}
    skipped: Counter[str] = Counter()
    for node in nodes:
        if node.op_type in QUANTISED:
            skipped["quantised"] += 1
        elif node.op_type == "Conv":
            name = node.input[1]
            while name not in tensors and name in makers and makers[name].op_type in UNCHANGED:
                name = makers[name].input[0]
            if name in tensors and _is_floating(tensors[name]):
                found[name] = tensors[name]
            elif name in tensors or (name in makers and makers[name].op_type == "DequantizeLinear"):
                skipped["quantised"] += 1
            else:
                skipped["whose weight is computed" if name in makers else "whose weight is an input"] += 1
    return found, skipped


def _graphs(graph: "GraphProto") -> Iterator["GraphProto"]:
    """Yield a graph and the graphs inside its operators, such as the branches of an `If`."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner)


def _is_floating(tensor: "TensorProto") -> bool:
    kinds = (tensor.FLOAT, tensor.FLOAT16, tensor.BFLOAT16, tensor.DOUBLE)
    return tensor.data_type in kinds
