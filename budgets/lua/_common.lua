#!lua
-- What all scripts of the ledger share; it is put before each of them as text.
--
-- KEYS[1] is always a key of the account, and every other key begins as it does, `pm:{<account>}:`: one cluster slot.
-- Money is whole nano-USD below 2^53, because Lua counts in doubles; it is written by `digits`, because tostring()
-- writes 1e15 as "1e+15". Instants are Unix seconds, those of leases Unix milliseconds, all by the clock of Redis.
-- Redis keeps what a script wrote before it failed. So each script checks everything first and writes last; the
-- first line above lets Redis refuse a script that writes before it starts, where memory has run out.
--
-- A scope's hash has `limits` (`lifetime=10000000 day=5000000`) and for each period `<window>:<start>:spent`, `:held`
-- and `:suspense`. An attempt's hash has `state` (open, suspense, settled, voided), and as long as it holds money
-- `amount` and `holds`: a line for each scope, `<scope> <window>:<start> …`, the periods that hold the amount.

local PREFIX = string.match(KEYS[1], "^pm:{%w+}:")
local LEASES = PREFIX .. "leases"
local SUSPENSE = PREFIX .. "suspense"
local MOST = 9007199254740991

local function fail(code, message)
  error({ err = code .. " " .. message })
end

local function money(text)
  local amount = #text <= 16 and string.find(text, "^%d+$") and tonumber(text)
  if not amount or amount > MOST then
    fail("ERR", "an amount must be a whole number of nano-USD from 0 to 2^53 - 1, not " .. text)
  end
  return amount
end

local function digits(number)
  return string.format("%.0f", number)
end

local function clock()
  local time = redis.call("TIME")
  return tonumber(time[1]), time[1] * 1000 + math.floor(time[2] / 1000)
end

local function attempt_key(id)
  return PREFIX .. "attempt:" .. id
end

local function scope_key(scope)
  return PREFIX .. "scope:" .. scope
end

-- The periods of now: lifetime, and one of each window in `windows`, a text of `<name> <four boundaries>` each: the
-- starts of the previous, this and the next period and the next one's end, as the gateway's clock has them.
-- A clock of Redis outside of them has jumped: it must neither open a new period nor forget an old one.
local function current_periods(windows, now)
  local periods = { { window = "lifetime", id = "lifetime:0", resets_at = 0 } }
  for window, a, b, c, d in string.gmatch(windows, "(%l+) (%d+) (%d+) (%d+) (%d+)") do
    local first, second, third, fourth = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
    local period = { window = window }
    if now < first or now >= fourth then
      fail("CLOCK", "the clocks of Redis and of the gateway are more than a " .. window .. " apart")
    elseif now < second then
      period.start, period.resets_at, period.previous = a, second, 0
    elseif now < third then
      period.start, period.resets_at, period.previous = b, third, first
    else
      period.start, period.resets_at, period.previous = c, fourth, second
    end
    period.id = window .. ":" .. period.start
    periods[#periods + 1] = period
  end
  local fields = { "limits" }
  for _, period in ipairs(periods) do
    fields[#fields + 1] = period.id .. ":spent"
    fields[#fields + 1] = period.id .. ":held"
    fields[#fields + 1] = period.id .. ":suspense"
  end
  periods.fields = fields
  return periods
end

-- What a scope has used in the periods that it counts: its lifetime, and those of the windows that it limits.
local function read_scope(scope, periods)
  local values = redis.call("HMGET", scope_key(scope), unpack(periods.fields))
  local limits, counted = {}, {}
  for window, amount in string.gmatch(values[1] or "", "(%l+)=(%d+)") do
    limits[window] = tonumber(amount)
  end
  for i, period in ipairs(periods) do
    local limit = limits[period.window]
    if limit or period.window == "lifetime" then
      local spent, held, suspense = values[3 * i - 1], values[3 * i], values[3 * i + 1]
      local count = {
        scope = scope,
        period = period,
        limit = limit,
        new = not (spent or held or suspense),
        spent = tonumber(spent or 0),
        held = tonumber(held or 0),
        suspense = tonumber(suspense or 0),
      }
      count.free = (limit or MOST) - count.spent - count.held - count.suspense
      counted[#counted + 1] = count
    end
  end
  return counted
end

-- Fail before the first write if one of the keys to be written is of another type: half a step sent again and again
-- would be booked again and again.
local function check_types(holds)
  redis.call("ZCARD", LEASES)
  redis.call("ZCARD", SUSPENSE)
  for scope in string.gmatch(holds, "(%S+)[^\n]*\n?") do
    redis.call("HLEN", scope_key(scope))
  end
end

-- Add `amount`, which may be below zero, to one field of every period in `holds`.
local function add(holds, field, amount)
  if amount == 0 then
    return -- "-0" is no integer to Redis
  end
  local delta = digits(amount)
  for scope, periods in string.gmatch(holds, "(%S+)([^\n]*)\n?") do
    for id in string.gmatch(periods, "%S+") do
      redis.call("HINCRBY", scope_key(scope), id .. ":" .. field, delta)
    end
  end
end

local function read_attempt(id)
  local values = redis.call("HMGET", attempt_key(id), "state", "amount", "holds")
  if not values[1] then
    return nil
  end
  return { id = id, state = values[1], amount = tonumber(values[2] or 0), holds = values[3] or "" }
end

-- Leave of the attempt only how it ended, so that whatever comes twice is known, for `tombstone` milliseconds.
local function close(id, state, tombstone)
  local key = attempt_key(id)
  redis.call("DEL", key)
  redis.call("HSET", key, "state", state)
  redis.call("PEXPIRE", key, tombstone)
  redis.call("ZREM", LEASES, id)
  redis.call("ZREM", SUSPENSE, id)
end

-- Give back what an open or suspended attempt holds; the caller writes what becomes of the attempt.
local function release(attempt)
  add(attempt.holds, attempt.state == "open" and "held" or "suspense", -attempt.amount)
end

-- Move an open attempt's hold to suspense, with `estimate` beside it; there it stays, and counts, until resolved.
local function suspend(attempt, estimate, now)
  check_types(attempt.holds)
  release(attempt)
  add(attempt.holds, "suspense", attempt.amount)
  redis.call("HSET", attempt_key(attempt.id), "state", "suspense", "estimate", estimate)
  redis.call("ZREM", LEASES, attempt.id)
  redis.call("ZADD", SUSPENSE, now, attempt.id)
end

-- Move the holds of up to `most` attempts whose lease has run out to suspense; returns how many there were.
-- Nobody is left to say what such an attempt cost, so that the estimate is the whole hold.
local function reap(most, now_ms, now)
  local dead = redis.call("ZRANGEBYSCORE", LEASES, "-inf", "(" .. digits(now_ms), "LIMIT", 0, most)
  for _, id in ipairs(dead) do
    local attempt = read_attempt(id)
    if attempt and attempt.state == "open" then
      suspend(attempt, digits(attempt.amount), now)
    else
      redis.call("ZREM", LEASES, id)
    end
  end
  return #dead
end
