from redis.crc import key_slot

from budgets import redis_layout


def test_all_that_belongs_to_an_account_is_in_one_cluster_slot() -> None:
    names = [
        redis_layout.leases("acme"),
        redis_layout.scope("acme", "key:key_acme_1"),
        redis_layout.key("acme", "key_acme_1"),
        redis_layout.secret("acme", "0f"),
        redis_layout.keys("acme"),
    ]

    assert len({key_slot(name.encode()) for name in names}) == 1
    assert len(set(names)) == len(names)
