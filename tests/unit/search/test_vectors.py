import numpy as np
import pytest

from mq9cluster.search.vectors import CODE_ONE, VectorSpace, quantize, saved_graph

DIMENSIONS = 16
RECALL_MIN = 0.97
rng = np.random.default_rng(9)


def random_codes(count):
    return [quantize(row, DIMENSIONS) for row in rng.normal(size=(count, DIMENSIONS))]


def space_of(codes, graph_vectors_min=10**9):
    space = VectorSpace(DIMENSIONS, graph_vectors_min)
    for slot, code in enumerate(codes):
        space.put(slot, code)
    return space


def build(space):
    job = space.maintenance()
    assert job is not None
    job.run()
    space.adopt(job)
    return job


def best(space, code, count, size, exact=False, allowed=None):
    mask = np.ones(size, np.bool_) if allowed is None else allowed
    slots, scores = space.search(code, mask, count, exact=exact)
    if slots is None:
        slots = np.flatnonzero(space.present(size) & mask)
        scores = scores[slots]
    return slots[np.argsort(-scores, kind="stable")][:count].tolist()


def recall(space, size, allowed=None):
    questions = random_codes(40)
    same = [
        len(
            set(best(space, q, 10, size, allowed=allowed))
            & set(best(space, q, 10, size, exact=True, allowed=allowed))
        )
        for q in questions
    ]
    return sum(same) / (10 * len(questions))


def test_a_scan_gives_the_exact_integer_products():
    codes = random_codes(50)
    space = space_of(codes)
    slots, scores = space.search(codes[3], np.ones(50, np.bool_), 5, exact=True)
    matrix = np.array([np.frombuffer(code, np.int8) for code in codes], np.int64)
    assert slots is None
    assert scores.tolist() == np.minimum((matrix @ matrix[3]) / CODE_ONE, 1.0).tolist()


def test_codes_keep_the_cosine_within_a_hundredth():
    a, b = rng.normal(size=(2, 512))
    cosine = a @ b / np.sqrt((a @ a) * (b @ b))
    x, y = (np.frombuffer(quantize(v, 512), np.int8).astype(int) for v in (a, b))
    assert x @ y / CODE_ONE == pytest.approx(cosine, abs=0.01)


def test_small_spaces_have_no_graph():
    assert space_of(random_codes(10), graph_vectors_min=11).maintenance() is None


def test_a_graph_finds_nearly_what_a_scan_finds():
    space = space_of(random_codes(3_000), graph_vectors_min=1_000)
    assert build(space).fresh
    assert recall(space, 3_000) > RECALL_MIN


def test_a_graph_is_not_asked_twice_for_the_same_work():
    space = space_of(random_codes(1_000), graph_vectors_min=1_000)
    job = space.maintenance()
    assert space.maintenance() is None
    job.run()
    space.adopt(job)
    assert space.maintenance() is None


def test_a_selective_filter_is_scanned_and_misses_nothing():
    space = space_of(random_codes(3_000), graph_vectors_min=1_000)
    build(space)
    for share in (0.01, 0.3):
        allowed = rng.random(3_000) < share
        assert recall(space, 3_000, allowed) > RECALL_MIN


def test_what_changed_while_a_graph_was_built_is_found_as_it_is_now():
    codes = random_codes(1_200)
    space = space_of(codes, graph_vectors_min=1_000)
    job = space.maintenance()
    space.remove(7)
    space.put(8, codes[7])
    fresh = random_codes(1)[0]
    space.put(1_200, fresh)
    job.run()
    space.adopt(job)
    assert best(space, codes[7], 1, 1_201) == [8]
    assert best(space, fresh, 1, 1_201) == [1_200]
    assert 8 not in best(space, codes[8], 1, 1_201)


def test_slots_may_be_numbered_anew_while_a_graph_is_built():
    codes = random_codes(1_500)
    space = space_of(codes, graph_vectors_min=1_000)
    job = space.maintenance()
    for slot in range(0, 1_500, 5):
        space.remove(slot)
    alive = np.arange(1_500) % 5 != 0
    space.compact(np.where(alive, np.cumsum(alive) - 1, -1))
    job.run()
    space.adopt(job)
    assert best(space, codes[1], 1, 1_200) == [0]
    assert best(space, codes[1_499], 1, 1_200) == [1_199]
    assert recall(space, 1_200) > RECALL_MIN


def test_the_tail_joins_the_graph_when_it_is_long():
    codes = random_codes(6_000)
    space = space_of(codes[:3_000], graph_vectors_min=1_000)
    build(space)
    for slot in range(3_000, 5_000):
        space.put(slot, codes[slot])
    assert space.maintenance() is None
    for slot in range(5_000, 6_000):
        space.put(slot, codes[slot])
    job = space.maintenance()
    assert (job.fresh, len(job.keys)) == (False, 3_000)
    assert best(space, codes[5_999], 1, 6_000) == [5_999]
    job.run()
    space.adopt(job)
    assert recall(space, 6_000) > RECALL_MIN


def test_a_graph_is_built_anew_when_a_third_of_it_is_dead():
    codes = random_codes(3_000)
    space = space_of(codes, graph_vectors_min=1_000)
    build(space)
    for slot in range(900):
        space.put(slot, codes[slot])
    assert space.maintenance() is None
    space.put(900, codes[900])
    assert build(space).fresh
    assert recall(space, 3_000) > RECALL_MIN


def test_a_saved_graph_attaches_itself_to_other_slots():
    codes = random_codes(2_000)
    names = [str(slot) for slot in range(2_000)]
    space = space_of(codes, graph_vectors_min=1_000)
    assert space.kept(names) is None
    build(space)
    graph, owners = space.kept(names)

    other = space_of(codes[::-1], graph_vectors_min=1_000)
    changed = random_codes(1)[0]
    other.put(5, changed)
    slots = {str(1_999 - slot): slot for slot in range(2_000)}
    assert other.attach(saved_graph(graph), owners, slots)
    assert other.maintenance() is None
    assert best(other, codes[0], 1, 2_000) == [1_999]
    assert best(other, changed, 1, 2_000) == [5]
    assert recall(other, 2_000) > RECALL_MIN


def test_a_graph_that_does_not_fit_is_not_used():
    codes = random_codes(1_000)
    names = [str(slot) for slot in range(1_000)]
    slots = {name: slot for slot, name in enumerate(names)}
    space = space_of(codes, graph_vectors_min=1_000)
    build(space)
    graph, owners = space.kept(names)
    data = saved_graph(graph)
    assert space_of(codes, 1_000).attach(data, owners, slots)
    assert not VectorSpace(DIMENSIONS + 1).attach(data, owners, slots)
    assert not space_of(codes, 1_000).attach(data, owners[:-1], slots)


def test_a_graph_of_other_vectors_proposes_none_of_them():
    names = [str(slot) for slot in range(1_000)]
    slots = {name: slot for slot, name in enumerate(names)}
    space = space_of(random_codes(1_000), graph_vectors_min=1_000)
    build(space)
    graph, owners = space.kept(names)
    codes = random_codes(1_000)
    other = space_of(codes, graph_vectors_min=1_000)
    assert other.attach(saved_graph(graph), owners, slots)
    assert best(other, codes[7], 1, 1_000) == [7]
    assert other.maintenance().fresh


def test_no_graph_is_saved_while_it_grows():
    space = space_of(random_codes(1_000), graph_vectors_min=1_000)
    names = [str(slot) for slot in range(1_000)]
    job = space.maintenance()
    assert space.kept(names) is None
    job.run()
    space.adopt(job)
    assert space.kept(names)
