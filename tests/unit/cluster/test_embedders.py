"""Which embedder the cluster has, as its nodes come and go with theirs."""

from mq9cluster.cluster import meta
from mq9cluster.cluster.embedders import CONCEPT, MODEL, Embedders
from mq9cluster.cluster.meta import Meta, Run

NODES = ["n1", "n2", "n3"]
LEXICON, NEWER = "concept:lexicon:1:512:aa", "concept:lexicon:1:512:bb"
OLD, NEW = "model2vec:old:1:8:11", "model2vec:new:1:16:22"


def with_nodes(model: str | None = OLD, concept: str = LEXICON) -> Embedders:
    embedders = Embedders()
    for node in NODES:
        embedders.announce(node, {CONCEPT: concept, MODEL: model}, NODES)
    return embedders


def test_the_first_node_decides():
    embedders = Embedders()
    embedders.announce("n1", {CONCEPT: LEXICON, MODEL: OLD}, NODES)
    embedders.announce("n2", {CONCEPT: NEWER, MODEL: NEW}, NODES)
    assert (embedders.concept.current, embedders.model.current) == (LEXICON, OLD)
    assert embedders.current() == OLD
    assert embedders.wanted() == [LEXICON, OLD]


def test_a_service_that_has_not_said_what_it_is_decides_nothing():
    embedders = with_nodes(model=None)
    assert (embedders.model.current, embedders.current()) == (None, LEXICON)
    embedders.announce("n2", {CONCEPT: LEXICON, MODEL: OLD}, NODES)
    assert embedders.current() == OLD


def test_without_a_model_concepts_are_what_is_asked():
    embedders = with_nodes(model="")
    assert (embedders.model.current, embedders.current()) == ("", LEXICON)
    assert embedders.wanted() == [LEXICON]


def test_another_model_follows_when_all_that_live_have_it_and_takes_over_when_no_shard_lacks_it():
    embedders = with_nodes()
    for node in ("n1", "n2"):
        embedders.announce(node, {CONCEPT: LEXICON, MODEL: NEW}, NODES)
        assert embedders.model.following is None
    embedders.announce("n3", {CONCEPT: LEXICON, MODEL: NEW}, NODES)
    assert (embedders.model.current, embedders.model.following) == (OLD, NEW)
    assert embedders.wanted() == [LEXICON, OLD, NEW]
    for shard in (1, 1, 0):
        assert embedders.current() == OLD
        embedders.embedded(NEW, shard, shards=3)
    embedders.embedded("model2vec:third:1:4:33", 2, shards=3)
    assert embedders.current() == OLD
    embedders.embedded(NEW, 2, shards=3)
    assert (embedders.current(), embedders.model.following) == (NEW, None)
    assert embedders.retired == [OLD]


def test_a_dead_node_holds_nothing_up():
    embedders = with_nodes()
    for node in ("n1", "n2"):
        embedders.announce(node, {CONCEPT: LEXICON, MODEL: NEW}, NODES)
    embedders.agree(["n1", "n2"])
    assert embedders.model.following == NEW


def test_a_change_may_be_taken_back_and_begins_anew_then():
    embedders = with_nodes()
    for model, following in ((NEW, NEW), (OLD, None), (NEW, NEW)):
        for node in NODES:
            embedders.announce(node, {CONCEPT: LEXICON, MODEL: model}, NODES)
        assert (embedders.model.following, embedders.model.embedded) == (following, [])
        embedders.embedded(NEW, 0, shards=2)
    assert embedders.current() == OLD


def test_what_was_made_for_a_change_that_is_taken_back_is_dropped():
    embedders = with_nodes()
    for model in (NEW, OLD):
        for node in NODES:
            embedders.announce(node, {CONCEPT: LEXICON, MODEL: model}, NODES)
    assert (embedders.wanted(), embedders.retired) == ([LEXICON, OLD], [NEW])


def test_an_embedder_that_comes_back_is_not_retired_any_more():
    embedders = with_nodes()
    for model in (NEW, OLD):
        for node in NODES:
            embedders.announce(node, {CONCEPT: LEXICON, MODEL: model}, NODES)
        embedders.embedded(model, 0, shards=1)
    assert (embedders.current(), embedders.retired) == (OLD, [NEW])


def test_a_model_can_be_given_up():
    embedders = with_nodes()
    for node in NODES:
        embedders.announce(node, {CONCEPT: LEXICON, MODEL: ""}, NODES)
    assert (embedders.current(), embedders.retired) == (LEXICON, [OLD])


def test_another_lexicon_takes_over_the_same_way():
    embedders = with_nodes()
    for node in NODES:
        embedders.announce(node, {CONCEPT: NEWER, MODEL: OLD}, NODES)
    assert embedders.wanted() == [LEXICON, NEWER, OLD]
    embedders.embedded(NEWER, 0, shards=1)
    assert (embedders.concept.current, embedders.retired) == (NEWER, [LEXICON])
    assert embedders.current() == OLD


def test_meta_keeps_them_and_reads_rows_from_before_there_were_any():
    state = Meta()
    for command in (
        meta.found("id", NODES, 2, [NODES, NODES]),
        *(meta.begin_run(node, Run(number, 1, "")) for number, node in enumerate(NODES)),
        meta.announce_embedders("n1", {CONCEPT: LEXICON, MODEL: OLD}),
        meta.announce_embedders("stranger", {CONCEPT: NEWER, MODEL: NEW}),
    ):
        state.apply(meta.orjson.loads(command[1:]))
    assert state.embedders.having(OLD) == ["n1"]
    assert Meta.unpack(state.pack()) == state
    row = meta.orjson.loads(state.pack())
    del row["meta"]["embedders"]
    assert Meta.unpack(meta.orjson.dumps(row)).embedders == Embedders()


def test_the_end_of_a_run_lets_the_others_agree():
    state = Meta()
    commands = [meta.found("id", NODES, 1, [NODES])]
    commands += [meta.begin_run(node, Run(n, 1, "")) for n, node in enumerate(NODES)]
    commands += [meta.announce_embedders(n, {CONCEPT: LEXICON, MODEL: OLD}) for n in NODES]
    commands += [meta.announce_embedders(n, {CONCEPT: LEXICON, MODEL: NEW}) for n in NODES[:2]]
    for command in commands:
        state.apply(meta.orjson.loads(command[1:]))
    assert state.embedders.model.following is None
    state.apply(meta.orjson.loads(meta.end_run("n3", 1)[1:]))
    assert state.embedders.model.following == NEW
    state.apply(meta.orjson.loads(meta.embedded(NEW, 0)[1:]))
    assert state.embedders.current() == NEW
