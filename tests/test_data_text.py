"""Data sets of text: the standard library, published files, one's own; tokens and vocabularies."""

import ast
from pathlib import Path

import pytest
from data_samples import refused

from dwp import InputError, data
from dwp.data import text_files
from dwp.data.text import Text, load, save
from dwp.data.tokens import Vocabulary, split


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


PTB = {"penn-treebank/ptb.train.txt": " a rose is\n", "penn-treebank/ptb.test.txt": " a <unk>\n"}
NEWS = {
    "ag-news/train.csv": '"1","Title","Text, with ""quotes"""\n"4","B","b"\n"2","C","c"\n"3","D","d"\n',
    "ag-news/test.csv": '"2","E","é\n2"\n',
}
IMDB = {
    f"imdb/aclImdb/{split}/{kind}/{n}_7.txt": f"{split} {kind} {n}"
    for split in ("train", "test")
    for kind in ("pos", "neg")
    for n in (0, 1)
}
OWN = {"letters/train.txt": "Dear\r\nreader", "letters/test.txt": "Yours"}
ALL = {"penn-treebank": PTB, "ag-news": NEWS, "imdb": IMDB, "letters": OWN}


def build(name, root):
    return data.build(name, data_root=root, downloads=root / "downloads")


def test_local_files_are_read(tmp_path):
    for files in ALL.values():
        write(tmp_path, files)
    made = build("penn-treebank", tmp_path)
    assert (made.train, made.test, made.classes) == ((" a rose is\n",), (" a <unk>\n",), 0)
    news = build("ag-news", tmp_path)
    assert news.train[0] == 'Title\nText, with "quotes"'
    assert news.test == ("E\né\n2",)
    assert (news.train_labels, news.test_labels, news.classes) == ((0, 3, 1, 2), (1,), 4)
    imdb = build("imdb", tmp_path)
    assert imdb.train == ("train neg 0", "train neg 1", "train pos 0", "train pos 1")
    assert imdb.train_labels == (0, 0, 1, 1)
    assert build("letters", tmp_path).train == ("Dear\nreader",)


@pytest.mark.parametrize("name", ALL)
def test_the_identity_is_that_of_the_content(tmp_path, name):
    write(tmp_path, ALL[name])
    before = data.identity(name, data_root=tmp_path)
    assert before == data.identity(name, data_root=tmp_path)
    assert list(before["files"]) == ["content"]
    assert data.is_text(name, data_root=tmp_path)
    path = next(iter(ALL[name]))
    content = (tmp_path / path).read_text()
    (tmp_path / path).write_text(content.replace("a", "b").replace("e", "f"))
    assert data.identity(name, data_root=tmp_path) != before


@pytest.mark.parametrize("name", ALL)
def test_a_file_of_text_holds_what_was_saved(tmp_path, name):
    write(tmp_path, ALL[name])
    made = build(name, tmp_path)
    for path in ("a", "b"):
        save(made, tmp_path / path)
    assert vars(load(tmp_path / "a")) == vars(made)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    (tmp_path / "a").write_bytes(b"damaged")
    with pytest.raises(InputError, match="not a readable file of text"):
        load(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("penn-treebank", {"penn-treebank/ptb.train.txt": "a"}, r"ptb\.test\.txt is missing"),
        ("penn-treebank", PTB | {"penn-treebank/ptb.test.txt": ""}, r"ptb\.test\.txt: empty"),
        (
            "letters",
            OWN | {"letters/test.txt": b"caf\xe9"},
            r"test\.txt: not UTF-8 at byte 3; save it as UTF-8",
        ),
        ("ag-news", NEWS | {"ag-news/test.csv": '"1","a"\n'}, r"test\.csv: row 1 has 2 fields, class '1'"),
        (
            "ag-news",
            NEWS | {"ag-news/test.csv": '"1","a","b"\n"5","a","b"\n'},
            r"row 2 has 3 fields, class '5'",
        ),
        ("ag-news", NEWS | {"ag-news/train.csv": '"1","a","b"\n"3","a","b"\n'}, r"labels are \[0, 1, 2\]"),
        (
            "imdb",
            {"imdb/aclImdb/train/pos/0_9.txt": "good"},
            r"aclImdb/train/neg: no reviews; expected files",
        ),
        ("imdb", IMDB | {"imdb/aclImdb/test/pos/1_7.txt": b"\xff"}, r"1_7\.txt: not UTF-8 at byte 0"),
        ("python-docs", {"python-docs/train.txt": "a"}, "built in and reads no folder"),
    ],
)
def test_malformed_files_are_refused_in_one_line(tmp_path, name, files, message):
    write(tmp_path, files)
    refused(tmp_path, message, name)


@pytest.mark.parametrize(("name", "files"), [("ag-news", r"train\.csv"), ("imdb", "aclImdb")])
def test_nothing_is_downloaded(tmp_path, name, files):
    refused(tmp_path, rf"data set {name} is not downloaded; put .*{files}.* into <data_root>/{name}", name)


def test_text_has_no_images(tmp_path):
    write(tmp_path, OWN)
    for name in ("letters", "python-docs"):
        with pytest.raises(InputError, match=r"is text, not images; it can be data.text"):
            data.image_shape(name, data_root=tmp_path)
    assert not data.is_text("digits")
    refused(tmp_path, r"or for text with train\.txt and test\.txt", "lettres")


def test_the_standard_library_is_always_there(tmp_path):
    sources, docs = (build(name, tmp_path) for name in ("python-sources", "python-docs"))
    path = Path(ast.__file__)
    assert path.read_text(encoding="utf-8") in (*sources.train, *sources.test)
    assert any("abstract syntax" in document for document in (*docs.train, *docs.test))
    for made in (sources, docs):
        train, test = (sum(map(len, documents)) for documents in (made.train, made.test))
        assert train > 300_000
        assert 0.02 < test / train < 0.5
        assert made.classes == 0
        assert data.identity(made.name)["files"] == {"content": made.digest}
    assert build("python-docs", tmp_path).digest == docs.digest


def test_a_python_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files.os, "__file__", str(tmp_path / "os.py"))
    with pytest.raises(InputError, match="0 modules; Python's sources are needed"):
        data.identity("python-sources")


@pytest.mark.parametrize(
    ("level", "tokens"),
    [
        ("characters", [*"It's <unk>.\n"]),
        ("words", ["It", "'", "s", "<", "unk", ">", ".", "\n"]),
        ("tokens", ["It's", "<unk>.", "\n"]),
    ],
)
def test_levels_of_tokens(level, tokens):
    assert list(split("It's <unk>.\n", level)) == tokens


def test_a_vocabulary_numbers_the_most_frequent_words():
    vocabulary = Vocabulary.of(["b a b", "c c b <unk> <unk>"], "tokens", 2)
    assert vocabulary.words == ("<unk>", "<pad>", "b", "c")
    assert vocabulary.numbers("b c d <unk> b") == [2, 3, 0, 0, 2]
    assert len(Vocabulary.of(["abca"], "characters")) == 5
    assert Vocabulary.of(["b", "a"], "words") == Vocabulary.of(["a", "b"], "words")


def test_labels_go_with_documents():
    with pytest.raises(InputError, match="1 labels for the 2 documents of train"):
        Text("x", ("a", "b"), ("c",), (0,), (0,))
    with pytest.raises(InputError, match="0 labels for the 1 documents of test"):
        Text("x", ("a",), ("c",), (0,))
    with pytest.raises(InputError, match=r"labels are \[0, 1\]"):
        Text("x", ("a",), ("c",), (0,), (1,))
