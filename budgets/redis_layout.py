"""Where everything lies in Redis. The braces in a name put all that belongs to one account into one cluster slot.

The scripts build the same names from their first key (`lua/_common.lua`, which also says what the hashes contain).
"""

ACCOUNTS = "pm:accounts"
"""Set of all accounts, so that the leases of idle ones are looked after too."""


def leases(account: str) -> str:
    """Sorted set: attempt id → end of its lease."""
    return f"pm:{{{account}}}:leases"


def suspense(account: str) -> str:
    """Sorted set: attempt id → since when it is in suspense, in Unix seconds."""
    return f"pm:{{{account}}}:suspense"


def mark(account: str) -> str:
    """Hash: the account's `era` and its `count` of steps, by which a loss is noticed (`budgets/marks.py`)."""
    return f"pm:{{{account}}}:mark"


def scope(account: str, name: str) -> str:
    """Hash of a scope (`account`, `key:<key id>`): its limits, and what is spent, held and in suspense."""
    return f"pm:{{{account}}}:scope:{name}"


def key(account: str, key_id: str) -> str:
    """Hash of a virtual key: `record` (JSON), `version` (one more at each change), `secrets` (digests of its texts)."""
    return f"pm:{{{account}}}:key:{key_id}"


def secret(account: str, digest: str) -> str:
    """String: the id of the key whose text has this digest."""
    return f"pm:{{{account}}}:secret:{digest}"


def keys(account: str) -> str:
    """Sorted set: key id → when it was made."""
    return f"pm:{{{account}}}:keys"
