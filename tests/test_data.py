"""Data sets that need no files, the Dataset class, its file, and the catalogue."""

import json
import subprocess
import sys

import pytest
import torch

from dwp import data
from dwp.data.glyphs import FONTS, STYLES, _masters
from dwp.errors import InputError

SMALL = {"train": 200, "test": 50}


def glyphs(tmp_path, **options):
    return data.build("glyphs", downloads=tmp_path, options=SMALL | options)


def make(**changes):
    fields = {
        "name": "toy",
        "train_images": torch.arange(6 * 4, dtype=torch.uint8).reshape(6, 1, 2, 2),
        "train_labels": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_images": torch.full((2, 1, 2, 2), 255, dtype=torch.uint8),
        "test_labels": torch.tensor([2, 0]),
    }
    return data.Dataset(**(fields | changes))


def equal(a, b):
    return all(
        torch.equal(getattr(a, field), getattr(b, field))
        for field in ("train_images", "train_labels", "test_images", "test_labels")
    )


# Dataset


def test_dataset_gives_floats_between_zero_and_one():
    dataset = make()
    images = dataset.images("test")
    assert images.dtype == torch.float32
    assert images.shape == (2, 1, 2, 2)
    assert torch.equal(images, torch.ones(2, 1, 2, 2))
    assert torch.equal((dataset.images("train") * 255).round().to(torch.uint8), dataset.train_images)
    assert torch.equal(dataset.labels("test", torch.device("cpu")), dataset.test_labels)
    assert dataset.classes == 3
    assert dataset.image_shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": torch.zeros(6, 1, 2, 2)}, r"train_images are torch.float32 .* torch.uint8"),
        (
            {"train_images": torch.zeros(6, 2, 2, dtype=torch.uint8)},
            r"\[6, 2, 2\]; allowed is .*\[n, c, h, w\]",
        ),
        ({"train_images": torch.zeros(6, 1, 2, 3, dtype=torch.uint8)}, r"\[6, 1, 2, 3\]; allowed are square"),
        ({"test_images": torch.zeros(2, 1, 3, 3, dtype=torch.uint8)}, r"\(1, 3, 3\).*\(1, 2, 2\)"),
        ({"test_images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8)}, "empty"),
        ({"test_labels": torch.tensor([0])}, "2 test_images but 1 test_labels"),
        ({"test_labels": torch.tensor([0.0, 1.0])}, r"torch.float32 \[2\]; allowed is torch.int64 \[n\]"),
        ({"test_labels": torch.tensor([0, 3])}, "contain 3; the train labels go from 0 to 2"),
        ({"train_labels": torch.tensor([0, 1, 2, 0, 1, -1])}, "contain -1"),
    ],
)
def test_dataset_refuses_what_does_not_fit(changes, message):
    with pytest.raises(InputError, match=f"^data set toy: .*{message}"):
        make(**changes)


def test_dataset_refuses_an_unknown_split():
    with pytest.raises(InputError, match="'valid'; allowed: train, test"):
        make().images("valid")


# save and load


def test_saved_data_set_comes_back_and_equal_ones_give_equal_bytes(tmp_path):
    data.save(make(), tmp_path / "a.safetensors")
    data.save(make(), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = data.load(tmp_path / "a.safetensors")
    assert loaded.name == "toy"
    assert equal(loaded, make())


@pytest.mark.parametrize("damage", ["cut", "scribble", "absent", "folder", "other tensors", "bad tensors"])
def test_load_refuses_a_damaged_file(tmp_path, damage):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "toy.safetensors"
    data.save(make(), path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "scribble":
        path.write_bytes(b"\xff" * 16 + content[16:])
    elif damage == "absent":
        path.unlink()
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "other tensors":
        save_file({"weight": torch.zeros(2)}, path, metadata={"name": "toy"})
    else:
        save_file(load_file(path) | {"test_labels": torch.zeros(5)}, path, metadata={"name": "toy"})
    with pytest.raises(InputError, match=r"toy\.safetensors"):
        data.load(path)


# glyphs


def test_glyphs_have_the_form_of_mnist_and_balanced_classes(tmp_path):
    dataset = glyphs(tmp_path)
    assert dataset.train_images.shape == (200, 1, 28, 28)
    assert dataset.classes == 10
    assert dataset.train_labels.bincount().tolist() == [20] * 10
    assert dataset.test_labels.bincount().tolist() == [5] * 10
    # White on black, as notMNIST: most pixels are dark, and every image has bright ones.
    assert 0.1 < dataset.images("train").mean() < 0.5
    assert dataset.train_images.flatten(1).amax(1).min() > 100


def test_glyphs_depend_on_their_options_alone(tmp_path):
    torch.manual_seed(1)
    first = glyphs(tmp_path)
    torch.manual_seed(2)
    assert equal(first, glyphs(tmp_path))
    assert not equal(first, glyphs(tmp_path, seed=1))


def test_the_test_glyphs_do_not_depend_on_the_number_of_train_glyphs(tmp_path):
    small, large = glyphs(tmp_path), glyphs(tmp_path, train=300)
    assert torch.equal(small.test_images, large.test_images)
    assert not torch.equal(small.train_images[:50], small.test_images)


def test_glyphs_without_warps_blots_and_noise_are_the_masters(tmp_path):
    options = {"rotation": 0, "shear": 0, "shift": 0, "blots": 0, "contrast": 1, "noise": 0}
    calm = glyphs(tmp_path, **options, thickened=0, outline=0, inverted=0).images("train")
    # Upright and centred: the corners are black unless a letter fills its box.
    assert calm[..., 0, 0].mean() < 0.05
    inverted = glyphs(tmp_path, **options, thickened=0, outline=0, inverted=1).images("train")
    assert inverted[..., 13, 3].mean() > 0.5 > calm[..., 13, 3].mean()
    thickened = glyphs(tmp_path, **options, thickened=1, outline=0, inverted=0).images("train")
    assert thickened.mean() > 1.2 * calm.mean()


def test_glyphs_k_t_are_other_letters_of_the_same_renderer(tmp_path):
    first, other = (data.build(name, downloads=tmp_path, options=SMALL) for name in ("glyphs", "glyphs-k-t"))
    assert other.name == "glyphs-k-t"
    assert torch.equal(first.train_labels, other.train_labels)
    assert not torch.equal(first.train_images, other.train_images)
    assert data.identity("glyphs")["files"] == data.identity("glyphs-k-t")["files"]


@pytest.mark.parametrize("letters", ["ABCDEFGHIJ", "KLMNOPQRST"])
def test_masters_are_all_different_letters(letters):
    masters = _masters(letters)
    assert masters.shape[:3] == (len(STYLES), len(FONTS), len(letters))
    assert masters.min() == 0
    assert masters.max() == 1
    flat = torch.from_numpy(masters).flatten(3)
    # Some ink everywhere, and no two letters of a font alike (a font without letters draws boxes).
    assert flat.mean(-1).min() > 0.05
    distance = torch.cdist(flat, flat) + 100 * torch.eye(len(letters))
    assert distance.min() > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trian": 5}, "unknown option 'trian'; its options: train, test, seed"),
        ({"train": 5}, "option train is 5; allowed is an integer from 10"),
        ({"train": 20.0}, "option train is 20.0; allowed is an integer"),
        ({"train": True}, "option train is True"),
        ({"noise": float("nan")}, "option noise is nan; allowed is a number from 0.0 to 255.0"),
        ({"rotation": "14"}, "option rotation is '14'"),
        ({"outline": 0.6, "inverted": 0.6}, "sum to at most 1"),
    ],
)
def test_bad_options_are_refused_before_and_while_building(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        data.identity("glyphs", options=options)
    with pytest.raises(InputError, match=message):
        data.build("glyphs", downloads=tmp_path, options=options)


# digits


def test_digits_are_real_split_by_class_and_padded(tmp_path):
    dataset = data.build("digits", downloads=tmp_path)
    assert dataset.train_images.shape == (1000, 1, 28, 28)
    assert dataset.test_images.shape == (797, 1, 28, 28)
    shares = dataset.train_labels.bincount() / (
        dataset.train_labels.bincount() + dataset.test_labels.bincount()
    )
    assert (shares - 1000 / 1797).abs().max() < 0.01
    edge = dataset.train_images.clone()
    edge[..., 4:24, 4:24] = 0
    assert edge.max() == 0
    assert dataset.train_images.max() == 255


def test_digits_seed_changes_the_split_only(tmp_path):
    first, again, other = (
        data.build("digits", downloads=tmp_path, options={"seed": seed, "test": 500}) for seed in (0, 0, 1)
    )
    assert equal(first, again)
    assert not torch.equal(first.test_images, other.test_images)
    totals = [int(d.train_images.long().sum() + d.test_images.long().sum()) for d in (first, other)]
    assert totals[0] == totals[1]


# catalogue


def test_every_name_is_known_and_others_are_refused(tmp_path):
    assert set(data.NAMES) == {
        *(
            "glyphs",
            "glyphs-k-t",
            "digits",
            "mnist",
            "notmnist",
            "fashion-mnist",
            "kmnist",
            "cifar10",
            "cifar100",
            "svhn",
            "python-sources",
            "python-docs",
            "penn-treebank",
            "ag-news",
            "imdb",
        )
    }
    for name in set(data.NAMES) - {"penn-treebank", "ag-news", "imdb"}:  # which nobody downloads
        identity = data.identity(name)
        assert identity["name"] == name
        assert json.loads(json.dumps(identity)) == identity
    with pytest.raises(InputError, match="unknown data set 'MNIST'; known: glyphs"):
        data.identity("MNIST")
    with pytest.raises(InputError, match="unknown data set 'MNIST'"):
        data.build("MNIST", downloads=tmp_path)


def test_identity_states_resolved_options():
    plain = data.identity("glyphs")
    assert data.identity("glyphs", options={"seed": 0, "rotation": 14}) == plain
    assert data.identity("glyphs", options={"seed": 1}) != plain


def test_identity_of_embedded_sets_needs_no_torch():
    code = (
        "import sys; from dwp.data import identity; identity('glyphs'); identity('digits'); "
        "sys.exit(bool({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
