import re

from gateway.ids import sequential_ids


def test_ids_have_their_prefix_and_are_never_the_same() -> None:
    sources = [sequential_ids("req_") for _ in range(3)]

    ids = [new_id() for new_id in sources for _ in range(1_000)]

    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"req_[0-9a-f]{18}", each) for each in ids)


def test_ids_go_on_beyond_the_width_of_their_count() -> None:
    new_id = sequential_ids("")
    first = new_id()

    assert new_id().startswith(first[:12])
    assert new_id() > first
