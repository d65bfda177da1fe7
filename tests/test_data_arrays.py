"""A user's data set: four arrays, intact and damaged, and its allowed names."""

import io

import numpy as np
import pytest
from data_samples import refused, write, write_arrays

from dwp import data
from dwp.errors import InputError


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("mine", (3, 32, 32), 4), ("My-set_2", (1, 20, 20), 2), ("0", (5, 9, 9), 12)],
)
def test_arrays_make_a_data_set_of_their_folders_name(tmp_path, name, shape, classes):
    arrays = write_arrays(tmp_path / name, shape, classes)
    dataset = data.build(name, data_root=tmp_path, downloads=tmp_path / "downloads")
    assert dataset.name == name
    for field, array in arrays.items():
        assert getattr(dataset, field).numpy().tolist() == array.tolist()
    assert data.image_shape(name, data_root=tmp_path) == dataset.image_shape == shape
    assert data.train_size(name, data_root=tmp_path) == 12
    assert data.identity(name, data_root=tmp_path)["name"] == name
    assert dataset.classes == classes
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("name", data.NAMES)
def test_arrays_under_a_known_name_are_refused(tmp_path, name):
    write_arrays(tmp_path / name)
    refused(tmp_path, f"{name}: arrays do not make the known set {name}.*such as my-{name}", name=name)
    with pytest.raises(InputError, match="a name of its own"):
        data.image_shape(name, data_root=tmp_path)


def test_arrays_beside_the_files_of_a_known_set_are_not_ignored(tmp_path):
    write(tmp_path / "mnist")
    np.save(tmp_path / "mnist" / "test_labels.npy", np.arange(4))
    refused(tmp_path, "mnist: arrays do not make the known set mnist")


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_a_folder_that_a_built_in_set_would_not_read_is_refused(tmp_path, name):
    write(tmp_path / name)
    refused(tmp_path, f"{name}: {name} is built in and reads no folder.*such as my-{name}", name=name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mnits", ["'mnits'", "did you mean 'mnist'?"]),
        ("MNIST", ["did you mean 'mnist'?"]),
        ("fashion mnist", ["did you mean 'fashion-mnist'?"]),
        ("leters", ["glyphs", "svhn", "Letters", "did you mean 'Letters'?"]),
        ("empty", ["'empty'"]),
        *((name, [repr(name)]) for name in ("", ".", "..", "../Letters", "Letters/", "Letters\n", "a\0")),
        ("-a", ["'-a'"]),
    ],
)
def test_an_unknown_name_is_refused_with_what_there_is_and_how_to_add_to_it(tmp_path, name, parts):
    write_arrays(tmp_path / "Letters")
    write_arrays(tmp_path / "two\nlines")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        data.image_shape(name, data_root=tmp_path)
    message = str(error.value)
    assert "\n" not in message
    files = ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"]
    for part in ["unknown data set", *parts, *data.NAMES, *files, f"{tmp_path}/<name>"]:
        assert part in message, message


def test_without_data_root_an_unknown_name_is_refused_with_how_to_give_it_one():
    with pytest.raises(InputError, match="<data_root>/<name>"):
        data.identity("mine")


def test_a_set_of_ones_own_has_no_options(tmp_path):
    write_arrays(tmp_path / "mine")
    with pytest.raises(InputError, match="data set mine: unknown option 'train'; its options: none"):
        data.identity("mine", data_root=tmp_path, options={"train": 5})


def test_arrays_in_the_order_of_another_program_are_read_alike(tmp_path):
    arrays = write_arrays(tmp_path / "mine")
    turned = {field: np.asfortranarray(array) for field, array in arrays.items()}
    write_arrays(tmp_path / "other" / "mine", **turned)
    one, two = (data.build("mine", data_root=root, downloads=root) for root in (tmp_path, tmp_path / "other"))
    assert one.train_images.equal(two.train_images)
    assert two.train_images.is_contiguous()


def test_identity_of_arrays_is_that_of_their_content(tmp_path):
    for root in ("here", "there"):
        write_arrays(tmp_path / root / "mine")
    here, there = (data.identity("mine", data_root=tmp_path / root) for root in ("here", "there"))
    assert here == there
    write_arrays(tmp_path / "there" / "mine", test_labels=np.array([0, 1, 2, 2]))
    assert data.identity("mine", data_root=tmp_path / "there") != here


WRONG = {
    "missing": ({"test_labels": None}, "test_labels.npy is missing; expected train_images.npy"),
    "no train images": ({"train_images": None}, "train_images.npy is missing; expected train_images.npy"),
    "floats": (
        {"test_images": np.zeros((4, 3, 32, 32))},
        r"test_images.npy: images are float64 \[4, 3, 32, 32\]; allowed is uint8 \[n, 3, 32, 32\]",
    ),
    "float train images": (
        {"train_images": np.zeros((12, 3, 32, 32))},
        r"train_images.npy: images are float64 \[12, 3, 32, 32\]; allowed is uint8 \[n, c, h, h\]",
    ),
    "channels last": (
        {"test_images": np.zeros((4, 32, 32, 3), np.uint8)},
        r"\[4, 32, 32, 3\]; allowed is uint8 \[n, 3, 32, 32\]",
    ),
    "not square": (
        {"train_images": np.zeros((12, 32, 32, 3), np.uint8)},
        r"train_images.npy: images are uint8 \[12, 32, 32, 3\]; allowed is uint8 \[n, c, h, h\]",
    ),
    "no channels": ({"train_images": np.zeros((12, 32, 32), np.uint8)}, r"allowed is uint8 \[n, c, h, h\]"),
    "no pixels": ({"train_images": np.zeros((12, 3, 0, 0), np.uint8)}, "train_images.npy: empty"),
    "one-hot labels": ({"test_labels": np.eye(4, dtype=int)}, "test_labels.npy: labels are int64"),
    "too few labels": ({"test_labels": np.arange(3)}, "3 labels for the 4 images of test_images.npy"),
    "labels from 1": (
        {"train_labels": np.arange(12) + 1},
        r"train_labels.npy: there are 12 classes, with labels from 1 to 12; allowed are 0 to 11",
    ),
    "a negative label": ({"train_labels": np.arange(12) - 1}, "labels from -1 to 10; allowed are 0 to 11"),
    "a far label": (
        {"train_labels": np.array([0] * 11 + [2**63], np.uint64)},
        "2 classes, with labels from 0 to 9223372036854775808; allowed are 0 to 1",
    ),
    "a label never trained": (
        {"test_labels": np.arange(4) + 1},
        "test_labels.npy: has label 4; the train labels go from 0 to 3",
    ),
    "no images": (
        {"test_images": np.zeros((0, 3, 32, 32), np.uint8), "test_labels": np.arange(0)},
        "test_images.npy: empty",
    ),
    "objects": ({"test_labels": np.array([{}] * 4)}, "test_labels.npy: cannot be read as an array"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arrays_are_refused_by_name(tmp_path, changed, message):
    write_arrays(tmp_path / "mine", **changed)
    refused(tmp_path, message, name="mine")


def _zip(content):
    stream = io.BytesIO()
    np.savez(stream, np.zeros(3))
    return stream.getvalue()


ARRAY_DAMAGES = {
    "cut": lambda content: content[:-1],
    "no content": lambda content: b"",
    "a quote in the header": lambda content: content[:20] + b"&" + content[21:],
    "a bracket in the header": lambda content: content.replace(b"), }", b")( }"),
    "a space before the header": lambda content: content.replace(b"{'descr': ", b"  'descr': "),
    "several arrays in one file": _zip,
}


@pytest.mark.parametrize("damage", ARRAY_DAMAGES.values(), ids=ARRAY_DAMAGES)
@pytest.mark.parametrize("field", ["train_images", "test_labels"])
def test_a_damaged_array_is_refused(tmp_path, field, damage):
    write_arrays(tmp_path / "mine")
    path = tmp_path / "mine" / f"{field}.npy"
    path.write_bytes(damage(path.read_bytes()))
    refused(tmp_path, f"{field}.npy: cannot be read as an array", name="mine")
