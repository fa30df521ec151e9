from hypothesis import given
from hypothesis import strategies as st

from gateway.api.headers import headers_from

LINES = st.lists(st.tuples(st.sampled_from([b"authorization", b"accept", b"x-a"]), st.binary(max_size=5)))


def test_a_header_that_came_once_is_as_it_came() -> None:
    assert headers_from([(b"host", b"a"), (b"accept", b"b")]) == {b"host": b"a", b"accept": b"b"}


@given(LINES)
def test_of_a_header_that_came_several_times_nothing_is_hidden(lines: list[tuple[bytes, bytes]]) -> None:
    headers = headers_from(lines)

    for name, value in headers.items():
        assert value == b", ".join(each for other, each in lines if other == name)
    assert headers.keys() == {name for name, _ in lines}
