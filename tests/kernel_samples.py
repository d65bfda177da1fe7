"""Weights of small networks, and stores of their kernels, for tests."""

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

LAYERS = {"features.conv1.weight": (6, 1, 7, 7), "conv2.weight": (5, 6, 3, 3), "conv3.weight": (4, 5, 3, 3)}


def net(seed):
    """The weights of one network, including layers other than convolutions."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in LAYERS.items()}
    return weights | {"conv2.bias": torch.zeros(5), "classifier.weight": torch.ones(10, 3)}


def write_nets(path, seeds):
    save_file({f"{seed}/{name}": tensor for seed in seeds for name, tensor in net(seed).items()}, path)
    return path


def read_store(path):
    with h5py.File(path) as store:
        return {
            f"{split}/{name}": data[:] for split in ("train", "test") for name, data in store[split].items()
        }


def assert_same_stores(one, other):
    one, other = read_store(one), read_store(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def write_onnx(path, weights, nodes, **parts):
    """Write an ONNX model.

    Args:
        weights: initialisers by name, arrays.
        nodes: (operator, name of its second input), applied in turn to the input; or nodes of ONNX.
        parts: other parts of the graph, such as `sparse_initializer`, or of the model: `functions`.
    """
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    made = []
    for number, node in enumerate(nodes):
        if isinstance(node, tuple):
            operator, weight = node
            node = helper.make_node(operator, [f"x{number}", weight], [f"x{number + 1}"])
        made.append(node)
    initialisers = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    x = helper.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, None)
    functions = parts.pop("functions", [])
    graph = helper.make_graph(made, "net", [x], [], initialisers, **parts)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, functions=functions, opset_imports=opsets), str(path))
    return path
