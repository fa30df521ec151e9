"""Proves the promises: a gateway of its own under faults, its books compared with the bill of an independent provider.

`paymaster chaos` runs all of it. `promises.py` is the table, one module shows each promise, `world.py` is what they
are shown on. Production code knows nothing of this package: faults come from a proxy (`proxy.py`), from the sandbox's
directives, from signals, and from wrappers that only the chaos worker puts around production methods (`points.py`).
"""
