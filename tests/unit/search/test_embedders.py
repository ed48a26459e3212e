import asyncio
import json
import struct
import sys
import types

import numpy as np
import pytest

from mq9cluster.search.embedder import (
    EmbedderId,
    EmbedderMisconfigured,
    EmbedderUnavailable,
    card_text,
)
from mq9cluster.search.embedders import open_embedder
from mq9cluster.search.services import BATCH_TEXTS_MAX, OpenAiService
from mq9cluster.search.static_model import StaticModel, Tokenizer, read_safetensors
from mq9cluster.search.vectors import quantize
from tests.unit.search.support import card

WORDS = ["[UNK]", "trans", "##late", "##ion", "scan", "paper", "合", "!"]
WORDPIECE = {
    "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
    "model": {
        "type": "WordPiece",
        "vocab": {word: i for i, word in enumerate(WORDS)},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    },
}
PIECES = [["<unk>", 0.0], ["▁", -3.0], ["▁scan", -2.0], ["scan", -4.0], ["s", -5.0], ["ning", -3.0]]
UNIGRAM = {
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]},
    "model": {"type": "Unigram", "vocab": PIECES, "unk_id": 0},
}


def safetensors(**tensors):
    names = {np.dtype("f4"): "F32", np.dtype("f2"): "F16", np.dtype("i8"): "I64"}
    header, data = {"__metadata__": {"made": "here"}}, b""
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def model_dir(path, tokenizer, **tensors):
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "model.safetensors").write_bytes(safetensors(**tensors))
    return path


def rows(count, dimensions=4, dtype=np.float32):
    return np.random.default_rng(1).normal(size=(count, dimensions)).astype(dtype)


# ---- model2vec


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("translate", [1, 2]),
        ("TRANSLATEION", [1, 2, 3]),
        ("scán!scan", [4, 7, 4]),
        ("合合 scan", [6, 6, 4]),
        ("scanner", []),
        ("x" * 200, []),
        ("", []),
    ],
)
def test_a_wordpiece_tokenizer_reads_like_bert(text, tokens):
    assert Tokenizer(WORDPIECE).tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("Scan", [2]), ("scanning", [2, 5]), ("xscan", [1, 3]), ("s s", [1, 4, 1, 4]), ("", [])],
)
def test_a_unigram_tokenizer_takes_the_likeliest_pieces(text, tokens):
    assert Tokenizer(UNIGRAM).tokens(text) == tokens


async def test_a_text_is_the_mean_of_its_tokens(tmp_path):
    table = rows(len(WORDS))
    model = StaticModel(model_dir(tmp_path, WORDPIECE, embeddings=table))
    assert model.id.dimensions == 4
    assert await model.embed_question("scan paper") == quantize(table[4] + table[5], 4)
    assert await model.embed_cards([card("scan", "paper")]) == [quantize(table[4] + table[5], 4)]
    assert await model.embed_question("zebra") is None


async def test_weights_mapping_and_half_precision_are_read(tmp_path):
    table = rows(3, dtype=np.float16)
    weights = np.arange(len(WORDS), dtype=np.float32)
    mapping = np.array([0, 0, 0, 0, 2, 1, 0, 0], np.int64)
    model = StaticModel(
        model_dir(tmp_path, WORDPIECE, embeddings=table, weights=weights, mapping=mapping)
    )
    wanted = 4 * table[2].astype(np.float32) + 5 * table[1].astype(np.float32)
    assert await model.embed_question("scan paper") == quantize(wanted, 4)


def test_the_id_of_a_model_is_its_content(tmp_path):
    ids = []
    for name, count in (("a", 8), ("b", 8), ("c", 9)):
        path = tmp_path / name / "same"
        path.mkdir(parents=True)
        ids.append(StaticModel(model_dir(path, WORDPIECE, embeddings=rows(count))).id)
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "tokenizer.json").unlink(),
        lambda path: (path / "tokenizer.json").write_text("{"),
        lambda path: (path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}'),
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "model.safetensors").write_bytes(b"abc"),
        lambda path: (path / "model.safetensors").write_bytes(b"\xff" * 64),
        lambda path: (path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]"),
        lambda path: (path / "model.safetensors").write_bytes(safetensors(embeddings=rows(8))[:-4]),
        lambda path: (path / "model.safetensors").write_bytes(safetensors(other=rows(8))),
        lambda path: (path / "model.safetensors").write_bytes(safetensors(embeddings=rows(8)[0])),
    ],
)
def test_a_damaged_model_is_refused_with_its_file(tmp_path, damage):
    model_dir(tmp_path, WORDPIECE, embeddings=rows(8))
    damage(tmp_path)
    with pytest.raises(EmbedderMisconfigured, match=r"tokenizer\.json|model\.safetensors"):
        StaticModel(tmp_path)


def test_tensors_are_read_as_written(tmp_path):
    table = rows(3)
    (tmp_path / "x").write_bytes(safetensors(a=table, b=np.array([1, 2], np.int64)))
    read = read_safetensors(tmp_path / "x")
    assert read["a"].tolist() == table.tolist()
    assert read["b"].tolist() == [1, 2]


# ---- services


class Service:
    """An embedding service: the length of a text is its vector."""

    def __init__(self):
        self.asked = []
        self.fails = None

    async def post(self, url, body):
        request = json.loads(body)
        self.asked.append(request["input"])
        if self.fails is not None:
            return await self.fails()
        data = [
            {"index": i, "embedding": [len(text), 1.0]} for i, text in enumerate(request["input"])
        ]
        return 200, json.dumps({"data": data[::-1]}).encode()


async def opened():
    service = Service()
    embedder = OpenAiService("http://x/v1/embeddings", "m", service.post, timeout_s=0.2)
    await embedder.open()
    return service, embedder


async def test_a_service_is_asked_in_batches_and_answers_in_any_order():
    service, embedder = await opened()
    cards = [card("a" * (i + 1)) for i in range(BATCH_TEXTS_MAX + 1)]
    codes = await embedder.embed_cards(cards)
    assert codes == [quantize([len(card_text(one)), 1.0], 2) for one in cards]
    assert [len(texts) for texts in service.asked] == [1, BATCH_TEXTS_MAX, 1]
    assert await embedder.embed_question("  ") is None


async def answers(status, body):
    return status, body


async def refuses():
    raise ConnectionRefusedError


@pytest.mark.parametrize(
    "fails",
    [
        lambda: answers(500, b""),
        lambda: answers(200, b"no json"),
        lambda: answers(200, b"[]"),
        lambda: answers(200, b'{"data": []}'),
        lambda: answers(200, b'{"data": [{"index": 0, "embedding": [1]}]}'),
        lambda: answers(200, b'{"data": [{"index": 0, "embedding": [0, 0]}]}'),
        lambda: answers(200, b'{"data": [{"index": 0, "embedding": "x"}]}'),
        refuses,
        lambda: asyncio.sleep(5),
    ],
)
async def test_every_failure_of_a_service_is_unavailability(fails):
    service, embedder = await opened()
    service.fails = fails
    with pytest.raises(EmbedderUnavailable):
        await embedder.embed_question("text")


async def test_fastembed_is_used_when_it_is_installed(tmp_path, monkeypatch):
    class TextEmbedding:
        def __init__(self, **options):
            assert options["local_files_only"]
            assert options["specific_model_path"] == str(tmp_path)
            self.known_as = options["model_name"]
            if self.known_as == "unknown":
                raise ValueError("not supported")

        def embed(self, texts):
            if "mistake" in texts:
                raise Exception("of the runtime's own kind")  # noqa: TRY002  as it does
            return (np.array([len(text), 1.0]) for text in texts)

    monkeypatch.setitem(
        sys.modules, "fastembed", types.SimpleNamespace(TextEmbedding=TextEmbedding)
    )
    (tmp_path / "config.json").write_text('{"_name_or_path": "some/model"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"weights")
    embedder = await open_embedder(f"fastembed:{tmp_path}", Service().post)
    assert (embedder.id.name, embedder.id.dimensions) == ("some/model", 2)
    with pytest.raises(EmbedderUnavailable, match="of the runtime's own kind"):
        await embedder.embed_question("mistake")
    named = await open_embedder(f"fastembed:{tmp_path}#its/name", Service().post)
    assert named.id == embedder.id._replace(name="its/name")
    (tmp_path / "model.onnx").write_bytes(b"other weights")
    other = await open_embedder(f"fastembed:{tmp_path}", Service().post)
    assert other.id.content_hash not in ("", embedder.id.content_hash)
    with pytest.raises(EmbedderMisconfigured, match="not supported"):
        await open_embedder(f"fastembed:{tmp_path}#unknown", Service().post)
    assert await embedder.embed_question("abc") == quantize([3.0, 1.0], 2)
    assert await embedder.embed_cards([card("abc")]) == [quantize([3.0, 1.0], 2)]


async def test_a_setting_names_its_embedder(tmp_path):
    service = Service()
    model_dir(tmp_path, WORDPIECE, embeddings=rows(8))
    settings = [f"model2vec:{tmp_path}", "openai:http://x/v1/embeddings#bge", "vectors:7#ours"]
    ids = [(await open_embedder(setting, service.post)).id for setting in settings]
    assert [(one.kind, one.dimensions) for one in ids] == [
        ("model2vec", 4),
        ("openai", 2),
        ("vectors", 7),
    ]
    assert [one.name for one in ids[1:]] == ["bge", "ours"]
    assert [EmbedderId.parse(str(one)) for one in ids] == ids


@pytest.mark.parametrize(
    "setting",
    ["", "concept", "model2vec", "model2vec:", "bert:x", "vectors:0", "vectors:x", "vectors:4097"],
)
async def test_a_setting_that_names_nothing_is_refused(setting):
    with pytest.raises(EmbedderMisconfigured):
        await open_embedder(setting, Service().post)


async def test_an_embedder_of_given_vectors_embeds_nothing():
    given = await open_embedder("vectors:3", Service().post)
    assert await given.embed_cards([card("a")]) == [None]
    assert await given.embed_question("a") is None
