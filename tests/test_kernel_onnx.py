"""Kernels of ONNX models: which operators count, what is left out, and damaged files."""

import numpy as np
import pytest
import torch
from kernel_samples import write_onnx

from dwp.errors import InputError
from dwp.kernels import readers

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def weight(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def found(path, size=3):
    return {batch.layer: batch for batch in readers.read(path, size)}


def test_only_weights_of_convolutions_of_the_size_count(tmp_path):
    weights = {
        "conv.weight": weight(4, 2, 3, 3),
        "five.weight": weight(4, 4, 5, 5),
        "one dimension.weight": weight(4, 4, 3),
        "transposed.weight": weight(4, 4, 3, 3),
        "table": weight(7, 4, 3, 3),
        "unused.weight": weight(4, 4, 3, 3),
    }
    nodes = [("Conv", "conv.weight"), ("Conv", "five.weight"), ("Conv", "one dimension.weight")]
    nodes += [("ConvTranspose", "transposed.weight"), ("Gather", "table")]
    (batch,) = found(write_onnx(tmp_path / "net.onnx", weights, nodes)).values()
    assert (batch.layer, batch.inputs) == ("conv", 2)
    assert np.array_equal(batch.kernels, weights["conv.weight"].reshape(8, 1, 3, 3))


def test_grouped_and_depthwise_convolutions_count(tmp_path):
    weights = {"grouped.weight": weight(6, 2, 3, 3), "depthwise.weight": weight(6, 1, 3, 3, seed=1)}
    nodes = [
        helper.make_node("Conv", ["x0", "grouped.weight"], ["x1"], group=3),
        helper.make_node("Conv", ["x1", "depthwise.weight"], ["x2"], group=6),
    ]
    batches = found(write_onnx(tmp_path / "net.onnx", weights, nodes))
    assert {name: (len(batch.kernels), batch.inputs) for name, batch in batches.items()} == {
        "grouped": (12, 2),
        "depthwise": (6, 1),
    }


def test_a_shared_weight_counts_once(tmp_path):
    path = write_onnx(tmp_path / "net.onnx", {"w": weight(3, 3, 3, 3)}, [("Conv", "w"), ("Conv", "w")])
    assert len(list(readers.read(path, 3))) == 1


def test_weights_behind_constants_casts_and_in_branches(tmp_path):
    w = weight(3, 2, 3, 3)
    constant = helper.make_node(
        "Constant", [], ["c"], value=onnx.numpy_helper.from_array(weight(3, 3, 3, 3, seed=1))
    )
    cast = helper.make_node("Cast", ["half"], ["w"], to=onnx.TensorProto.FLOAT)
    inner = helper.make_graph(
        [helper.make_node("Conv", ["x0", "inner"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight(2, 2, 3, 3, seed=2), "inner")],
    )
    branch = helper.make_node("If", ["x0"], ["z"], then_branch=inner, else_branch=inner)
    nodes = [constant, cast, ("Conv", "w"), ("Conv", "c"), branch]
    batches = found(write_onnx(tmp_path / "net.onnx", {"half": w.astype(np.float16)}, nodes))
    assert set(batches) == {"half", "c", "inner"}
    assert np.array_equal(batches["half"].kernels.reshape(w.shape), w.astype(np.float16).astype(np.float32))


def test_weights_in_functions_of_the_model(tmp_path):
    body = [helper.make_node("Conv", ["x", "w"], ["y"])]
    block = helper.make_function("local", "Block", ["x", "w"], ["y"], body, [helper.make_opsetid("", 20)])
    call = helper.make_node("Block", ["x0", "conv.weight"], ["x1"], domain="local")
    weights = {"conv.weight": weight(3, 2, 3, 3)}
    assert set(found(write_onnx(tmp_path / "net.onnx", weights, [call], functions=[block]))) == {"conv"}


def test_what_cannot_be_read_is_left_out_with_a_line_in_the_log(tmp_path, caplog):
    weights = {
        "conv.weight": weight(3, 2, 3, 3),
        "int": np.ones((3, 2, 3, 3), np.int8),
        "scale": np.ones((), np.float32),
        "w": weight(3, 2, 3, 3),
    }
    nodes = [
        ("Conv", "conv.weight"),
        helper.make_node("DequantizeLinear", ["int", "scale"], ["dequantised"]),
        ("Conv", "dequantised"),
        helper.make_node("QLinearConv", ["x0", "s", "z", "int", "s", "z", "s", "z"], ["x3"]),
        helper.make_node("ConvInteger", ["x0", "int"], ["x4"]),
        helper.make_node("Mul", ["w", "w"], ["scaled"]),
        ("Conv", "scaled"),
        ("Conv", "x0"),
    ]
    assert set(found(write_onnx(tmp_path / "net.onnx", weights, nodes))) == {"conv"}
    (line,) = caplog.messages
    assert line.endswith(
        "net.onnx: convolutions left out: 3 quantised, 1 whose weight is an input, 1 whose weight is computed"
    )


def test_bfloat16_and_external_data(tmp_path):
    w = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    tensor = helper.make_tensor("w", onnx.TensorProto.BFLOAT16, w.shape, w.flatten().float().tolist())
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "net", [], [], [tensor])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph), str(path))
    assert np.array_equal(found(path)["w"].kernels.reshape(w.shape), w.float().numpy())
    write_onnx(path, {"w": weight(3, 2, 3, 3)}, [("Conv", "w")])
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="net.data", size_threshold=0)
    assert np.array_equal(found(path)["w"].kernels.reshape(3, 2, 3, 3), weight(3, 2, 3, 3))
    (tmp_path / "net.data").unlink()
    with pytest.raises(InputError, match=r"net\.onnx: w cannot be read") as refused:
        found(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"these are no kernels\n" * 100])
def test_files_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"net\.onnx (is no ONNX model|cannot be read as ONNX)"):
        list(readers.read(tmp_path / "net.onnx", 3))
