"""Whether a Redis server is fit to keep money in: what it would forget, what it would refuse, what to do about it."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis, RedisError, ResponseError

from budgets.windows import MOST_APART

OLDEST_VERSION = 7
"""Scripts declare themselves to Redis since 7.0, so that one that writes is refused before it begins."""
LEAST_MEMORY = 64 * 2**20
"""Bytes: room for some 200,000 attempts within `ledger.tombstone`."""
NEARLY_FULL = 0.8
WORST_SKEW = 5.0
"""Seconds by which clocks that somebody sets by hand may differ."""
PERMISSIONS = "~pm:* +@all -@dangerous +info"
"""What a user of Redis needs, in the words of its ACL."""
OUTSIDE_SCRIPTS = ("DEL", "EVALSHA", "EXEC", "HSETNX", "MULTI", "SADD", "SMEMBERS", "WATCH", "ZRANGE", "ZRANK")
"""Commands that are needed besides those in the scripts."""
FORBIDDEN = """#!lua flags=no-writes,allow-oom
-- Which of the commands ARGV the user of this connection may not run on KEYS[1].
local forbidden = {}
for _, command in ipairs(ARGV) do
  if not redis.acl_check_cmd(command, KEYS[1], KEYS[1], KEYS[1]) then
    forbidden[#forbidden + 1] = command
  end
end
return forbidden
"""

Facts = Mapping[str, Any]
"""What INFO says."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What speaks against keeping money in a Redis server; a fatal one makes the ledger wrong or useless."""

    message: str
    fatal: bool


def check_server(redis: Redis, clock: Callable[[], float] = time.time) -> list[Problem]:
    """What is wrong with a server; nothing, if all is well. `clock` is this machine's, in Unix seconds.

    Raises redis.RedisError where it is away.
    """
    problems: list[Problem] = []
    try:
        facts = redis.info()
    except ResponseError as exc:
        told = f"Redis does not show its settings ({exc}); maxmemory-policy must be noeviction, appendonly yes"
        problems.append(Problem(told, fatal=False))
    else:
        if "sentinel" in (facts.get("redis_mode"), facts.get("server_mode")):  # the latter is Valkey's
            return [Problem("this is a Sentinel, which keeps no data; REDIS_URL must name the primary", fatal=True)]
        problems += [*_kind(facts), *_cluster(redis, facts), *_memory(facts), *_disk(facts)]
    return [*problems, *_fsync(redis), *_scripts(redis), *_clock(redis, clock)]


def _kind(facts: Facts) -> Iterator[Problem]:
    version = str(facts.get("redis_version", OLDEST_VERSION))
    if int(version.partition(".")[0]) < OLDEST_VERSION:
        yield Problem(f"this is Redis {version}; the ledger needs {OLDEST_VERSION}.0 or newer", fatal=True)
    if facts.get("role", "master") != "master":
        primary = f"{facts.get('master_host')}:{facts.get('master_port')}"
        yield Problem(f"this Redis is a replica of {primary}; REDIS_URL must name the primary", fatal=True)


def _cluster(redis: Redis, facts: Facts) -> Iterator[Problem]:
    if facts.get("cluster_enabled"):
        size = int(redis.execute_command("CLUSTER INFO").get("cluster_size", 0))  # type: ignore[no-untyped-call]
        if size > 1:
            told = f"this Redis is one of {size} primaries of a cluster, and accounts would lie on others"
            yield Problem(f"{told}; REDIS_URL must name a server that has all slots", fatal=True)


def _memory(facts: Facts) -> Iterator[Problem]:
    policy = facts.get("maxmemory_policy")
    if policy is None:
        yield Problem("Redis does not show its maxmemory-policy; it must be noeviction", fatal=False)
    elif policy != "noeviction":
        lost = "an evicted counter is a budget that starts anew"
        yield Problem(f"maxmemory-policy is {policy}; it must be noeviction, for {lost}", fatal=True)
    most, used = int(facts.get("maxmemory", 0)), int(facts.get("used_memory", 0))
    room = f"maxmemory is {_mib(most)}, of which {_mib(used)} are used"
    if 0 < most <= used:
        yield Problem(f"{room}: nothing more can be booked; give Redis more", fatal=True)
    elif most > 0 and (most < LEAST_MEMORY or used > NEARLY_FULL * most):
        yield Problem(f"{room}: once that is full, callers with a limit are refused; give Redis more", fatal=False)


def _disk(facts: Facts) -> Iterator[Problem]:
    if not facts.get("aof_enabled"):
        lost = "a restart of Redis forgets what was spent since its last snapshot"
        yield Problem(f"appendonly is off: {lost}; set appendonly yes", fatal=False)
    for last in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if facts.get(last, "ok") != "ok":
            yield Problem(f"Redis could not write to its disk ({last}: {facts[last]}); is it full?", fatal=False)


def _fsync(redis: Redis) -> Iterator[Problem]:
    try:
        policy = redis.config_get("appendfsync").get("appendfsync")
    except ResponseError:  # as where Redis is somebody's service: they may not let one look
        return
    if policy == "no":
        lost = "when its machine fails, Redis forgets half a minute and more"
        yield Problem(f"appendfsync is no: {lost}; set appendfsync everysec", fatal=False)


def _scripts(redis: Redis) -> Iterator[Problem]:
    """A command that is refused in the middle of a script would leave half a step behind."""
    try:
        forbidden = redis.eval(FORBIDDEN, 1, "pm:any", *_commands())
    except ResponseError as exc:
        reason = f"the user in REDIS_URL may run no scripts on pm:* ({exc}); it needs {PERMISSIONS}"
        yield Problem(reason, fatal=True)
    else:
        if forbidden:
            names = ", ".join(name.decode() for name in forbidden)
            yield Problem(f"the user in REDIS_URL may not run {names}; it needs {PERMISSIONS}", fatal=True)


def _commands() -> list[str]:
    scripts = (path.read_text("utf-8") for path in Path(__file__).parent.glob("lua/*.lua"))
    return sorted({*OUTSIDE_SCRIPTS, *re.findall(r'\bcall\("([A-Z]+)"', "".join(scripts))})


def _clock(redis: Redis, clock: Callable[[], float]) -> Iterator[Problem]:
    try:
        seconds, microseconds = redis.time()
    except RedisError:  # what needs it will say so
        return
    ahead = seconds + microseconds / 10**6 - clock()
    if abs(ahead) > WORST_SKEW:
        told = f"the clock of Redis is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        yield Problem(f"{told}; set them right: beyond {MOST_APART} s callers with a budget are refused", fatal=False)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
