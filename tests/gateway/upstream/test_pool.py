import asyncio

from gateway.upstream.pool import Origin, Pool

HERE = Origin(tls=False, host="here.example", port=80)
THERE = Origin(tls=True, host="here.example", port=80)


class FakeConnection:
    def __init__(self, pool: "Pool[FakeConnection]", origin: Origin = HERE) -> None:
        self.origin = origin
        self.quiet = True
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pool = pool
        pool.add(self)

    def is_quiet(self) -> bool:
        return self.quiet

    def close(self) -> None:
        if not self.closed.done():
            self._pool.remove(self)
            self.closed.set_result(None)


def make_pool(idle: float = 55, max_idle_per_origin: int = 10) -> Pool[FakeConnection]:
    return Pool(idle, max_idle_per_origin)


async def test_the_connection_used_last_is_taken_first() -> None:
    pool = make_pool()
    first, second = FakeConnection(pool), FakeConnection(pool)
    pool.put(first)
    pool.put(second)

    assert [pool.take(HERE) for _ in range(3)] == [second, first, None]


async def test_connections_are_shared_only_within_one_origin() -> None:
    pool = make_pool()
    connection = FakeConnection(pool, HERE)
    pool.put(connection)

    assert pool.take(THERE) is None
    assert pool.take(HERE) is connection


async def test_a_connection_that_is_no_longer_quiet_is_closed_and_the_next_one_taken() -> None:
    pool = make_pool()
    good, ended = FakeConnection(pool), FakeConnection(pool)
    pool.put(good)
    pool.put(ended)
    ended.quiet = False

    assert pool.take(HERE) is good
    assert ended.closed.done()


async def test_a_connection_that_has_ended_is_forgotten() -> None:
    pool = make_pool()
    connection = FakeConnection(pool)
    pool.put(connection)
    connection.close()

    assert pool.take(HERE) is None
    assert len(pool) == 0


async def test_where_there_are_too_many_idle_ones_the_longest_unused_is_closed() -> None:
    pool = make_pool(max_idle_per_origin=2)
    connections = [FakeConnection(pool) for _ in range(3)]
    for connection in connections:
        pool.put(connection)

    assert [connection.closed.done() for connection in connections] == [True, False, False]
    await pool.close()


async def test_unused_connections_are_closed_after_their_time() -> None:
    pool = make_pool(idle=0.02)
    here, there, short = FakeConnection(pool, HERE), FakeConnection(pool, THERE), FakeConnection(pool, HERE)
    pool.put(here)
    pool.put(there)
    pool.put(short, 0.01)

    await asyncio.gather(here.closed, there.closed, short.closed)

    assert len(pool) == 0


async def test_a_connection_past_its_time_is_not_taken_even_if_nobody_swept() -> None:
    pool = make_pool()
    connection = FakeConnection(pool)
    pool.put(connection, 1e-9)

    assert pool.take(HERE) is None
    assert connection.closed.done()


async def test_a_connection_that_the_peer_gives_no_time_is_not_kept() -> None:
    pool = make_pool()
    connection = FakeConnection(pool)
    pool.put(connection, 0)

    assert connection.closed.done()


async def test_a_used_connection_is_not_swept() -> None:
    pool = make_pool(idle=0.01)
    used, unused = FakeConnection(pool), FakeConnection(pool)
    pool.put(used)
    pool.put(unused)
    assert pool.take(HERE) is unused
    pool.remove(unused)
    assert pool.take(HERE) is used

    other = FakeConnection(pool)
    pool.put(other)
    await other.closed

    assert not used.closed.done()


async def test_closing_ends_idle_and_used_connections_and_keeps_no_later_one() -> None:
    pool = make_pool()
    idle, used = FakeConnection(pool), FakeConnection(pool)
    pool.put(idle)

    await pool.close()
    await pool.close()
    later = FakeConnection(pool)
    pool.put(later)

    assert idle.closed.done()
    assert used.closed.done()
    assert later.closed.done()
