#!lua
-- What all scripts of the ledger share; it is put before each of them as text.
--
-- KEYS[1] is always a key of the account, and every other key begins as it does, `pm:{<account>}:`: one cluster slot.
-- Money is whole nano-USD below 2^53, because Lua counts in doubles; it is written by `digits`, because tostring()
-- writes 1e15 as "1e+15". Instants are Unix seconds, those of leases Unix milliseconds, all by the clock of Redis.
-- Redis keeps what a script wrote before it failed. So each script checks everything first and writes last; the
-- first line above lets Redis refuse a script that writes before it starts, where memory has run out.
--
-- `scope:<scope>`, hash: `limits` (`lifetime=10000000 day=5000000`), and for each period, `<window>:<start>`, what is
-- spent, held and in suspense: `300 200 0`.
-- `attempt:<id>`, string: as long as it holds money, five lines and more (see read_attempt); afterwards, for a while,
-- `settled <spent>`, `voided` or, where its cost was guessed (`accepted`, `freed`), all of it again.
-- `mark`, hash: `era` and `count`, by which a gateway sees that Redis has lost what it had (see behind), and for each
-- window the start of the latest period that was used.

local call, tonumber = redis.call, tonumber -- a local is found faster than a global
local match, gmatch, find, format = string.match, string.gmatch, string.find, string.format

local PREFIX = match(KEYS[1], "^pm:{%w+}:")
local LEASES = PREFIX .. "leases"
local SUSPENSE = PREFIX .. "suspense"
local MARK = PREFIX .. "mark"
local MOST = 9007199254740991
local WHOLE = format("%d", MOST) == "9007199254740991" and "%d" or "%.0f" -- the faster one, where it has 64 bits
local PERIOD = WHOLE .. " " .. WHOLE .. " " .. WHOLE

local function fail(code, message)
  error({ err = code .. " " .. message })
end

local function money(text)
  local amount = #text <= 16 and find(text, "^%d+$") and tonumber(text)
  if not amount or amount > MOST then
    fail("ERR", "an amount must be a whole number of nano-USD from 0 to 2^53 - 1, not " .. text)
  end
  return amount
end

local function digits(number)
  return format(WHOLE, number)
end

local function clock()
  local time = call("TIME")
  return tonumber(time[1]), time[1] * 1000 + math.floor(time[2] / 1000)
end

local function attempt_key(id)
  return PREFIX .. "attempt:" .. id
end

local function scope_key(scope)
  return PREFIX .. "scope:" .. scope
end

-- The mark ---------------------------------------------------------------------------------------------------------

-- An era begins when nothing is there and nobody remembers anything, or when an operator confirms what is there:
-- `<number>:<when>`. In it every step that a journal can bring back counts one up, every change of a key a million.
local function era_number(era)
  return tonumber(match(era, "^(%d+):") or 0)
end

-- Whether Redis has less than the gateway has seen: an older state came back, or nothing is left.
local function behind(era, count, known_era, known_count)
  if known_era == "" or era_number(era) > era_number(known_era) then
    return false
  end
  return era ~= known_era or count < known_count
end

-- One more step, or none. The first write of a script: what it writes if a later one should fail is harmless.
local function count_step(steps)
  return call("HINCRBY", MARK, "count", steps)
end

local LIFETIME = { window = "lifetime", id = "lifetime:0", resets_at = 0 }

-- The calendar in `windows`, once it is sure that the clocks of Redis and of the gateway agree on now.
local function checked_clock(windows, now)
  local earliest, latest, rest = match(windows, "^(%d+) (%d+)(.*)$")
  if now < tonumber(earliest) or now > tonumber(latest) then
    local apart = now - (earliest + latest) / 2
    fail("CLOCK", "the clock of Redis is " .. digits(apart) .. " s ahead of the gateway's; set them right")
  end
  return rest
end

-- The periods of now ---------------------------------------------------------------------------------------------

-- `windows` is what the gateway knows of the calendar (budgets/windows.py): the earliest and the latest instant that
-- it takes for now, then for each window `<name> <four boundaries>`, the starts of the previous, this and the next
-- period and the next one's end. A period that is over never comes back: where the clock of Redis has gone back, the
-- latest period that was used stays.
-- Returns the periods, lifetime first, and the era and the count of the mark, which are read on the way.
local function current_periods(windows, now)
  local rest = checked_clock(windows, now)
  local periods, asked, fields = { LIFETIME }, { "era", "count" }, { "limits", LIFETIME.id }
  for window, a, b, c, d in gmatch(rest, "(%l+) (%d+) (%d+) (%d+) (%d+)") do
    asked[#asked + 1] = window
    periods[#periods + 1] = { window = window, a, b, c, d }
  end
  local mark = call("HMGET", MARK, unpack(asked))
  for i = 2, #periods do
    local period, used = periods[i], (mark[i + 1] or 0) + 0
    local ends, following = period[3] + 0, period[4] + 0
    local at, resets_at = 2, ends
    if used >= following then -- both clocks were ahead, and are back: that period goes on, about as long as any
      period[4], at, resets_at = mark[i + 1], 4, used + following - ends
    elseif now >= ends or used >= ends then
      at, resets_at = 3, following
    elseif now < period[2] + 0 and used < period[2] + 0 then
      at, resets_at = 1, period[2] + 0
    end
    period.previous, period.start, period.resets_at = period[at - 1], period[at], resets_at
    period.id = period.window .. ":" .. period.start
    period.first_use = used < period.start + 0
    fields[i + 1] = period.id
  end
  periods.fields = fields
  return periods, mark[1] or "", tonumber(mark[2] or 0)
end

-- What a period's field says: spent, held, in suspense.
local function read_period(text)
  if not text then
    return 0, 0, 0
  end
  local spent, held, suspense = match(text, "^(%d+) (%-?%d+) (%-?%d+)$")
  return spent + 0, held + 0, suspense + 0
end

local function write_period(spent, held, suspense)
  return format(PERIOD, spent, held, suspense)
end

-- What a scope may spend in each window that it limits.
local function read_limits(text)
  local limits = {}
  for window, amount in gmatch(text or "", "(%l+)=(%d+)") do
    limits[window] = amount + 0
  end
  return limits
end

-- Call `visit(period, limit or nil, spent, held, suspense, free)` for each period that a scope counts: its lifetime,
-- and those of the windows that it limits.
local function each_period(scope, periods, visit)
  local values = call("HMGET", scope_key(scope), unpack(periods.fields))
  local limits = read_limits(values[1])
  for i = 1, #periods do
    local period = periods[i]
    local limit = limits[period.window]
    if limit or i == 1 then
      local spent, held, suspense = read_period(values[i + 1])
      visit(period, limit, spent, held, suspense, (limit or MOST) - spent - held - suspense)
    end
  end
end

-- Attempts ---------------------------------------------------------------------------------------------------------

-- The lines of an attempt that holds money are: `<state> <amount> <estimate> <remaining>`, its key, its prices, its
-- model, and for each scope `<scope> <window>:<start> …`, the periods that hold the amount.
local function write_attempt(attempt)
  local head = attempt.state .. " " .. attempt.amount .. " " .. attempt.estimate .. " " .. attempt.remaining
  local lines = { head, attempt.key, attempt.prices, attempt.model, attempt.holds }
  return table.concat(lines, "\n")
end

local function read_attempt(id)
  local text = call("GET", attempt_key(id))
  if not text then
    return nil
  end
  local state, amount, estimate, remaining, key, prices, model, holds =
    match(text, "^(%l+) (%d+) (%d+) (%-?%d*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$")
  if not state then
    local closed, spent = match(text, "^(%l+) ?(%d*)$")
    return { id = id, state = closed, spent = spent, holds = "" }
  end
  return {
    id = id,
    state = state,
    amount = amount,
    estimate = estimate,
    remaining = remaining,
    key = key,
    prices = prices,
    model = model,
    holds = holds,
  }
end

local function one_line(text)
  if find(text, "\n", 1, true) then
    fail("ERR", "a name may not have more than one line: " .. text)
  end
  return text
end

-- What to write for changes in every period of `holds`, before anything is written: a scope of another type, or a sum
-- that cannot be counted, fails here. The changes are added to what is spent, held and in suspense.
local function prepare(holds, spent, held, suspense)
  local writes = {}
  for scope, ids in gmatch(holds, "(%S+) ([^\n]*)\n?") do
    local key, fields = scope_key(scope), {}
    for id in gmatch(ids, "%S+") do
      fields[#fields + 1] = id
    end
    local values, write = call("HMGET", key, unpack(fields)), { "HSET", key }
    for i = 1, #fields do
      local s, h, u = read_period(values[i])
      s, h, u = s + spent, h + held, u + suspense
      if s < 0 then -- a period that was forgotten since has nothing to give back
        s = 0
      end
      if s + h + u > 2 * MOST then
        fail("ERR", fields[i] .. " of " .. scope .. " would be more than can be counted")
      end
      write[2 * i + 1], write[2 * i + 2] = fields[i], write_period(s, h, u)
    end
    writes[#writes + 1] = write
  end
  return writes
end

local function apply(writes)
  for i = 1, #writes do
    call(unpack(writes[i]))
  end
end

-- Whether what is booked of an attempt was guessed: our estimate was accepted, or nothing, as no bill names it.
local function is_guess(attempt)
  return attempt.state == "accepted" or attempt.state == "freed"
end

-- What to add to held and to suspense so that an open or suspended attempt holds nothing any more.
local function released(attempt)
  if attempt.state == "open" then
    return -attempt.amount, 0
  end
  return 0, -attempt.amount
end

-- Have an attempt hold `amount` at least, in the state that it is in: Redis may have lost what it was extended by.
local function raise(attempt, amount)
  local more = amount - attempt.amount
  if more <= 0 then
    return false
  end
  local is_open = attempt.state == "open"
  apply(prepare(attempt.holds, 0, is_open and more or 0, is_open and 0 or more))
  attempt.amount = digits(amount)
  call("SET", attempt_key(attempt.id), write_attempt(attempt))
  return true
end

-- What an attempt leaves behind once it holds nothing, so that whatever comes twice is known, for `tombstone` ms.
local function bury(id, text, tombstone)
  call("SET", attempt_key(id), text, "PX", tombstone)
end

-- Take an attempt off the list that its state is on. One of the first writes, for a list of another type fails here.
local function unlist(attempt)
  if attempt and (attempt.state == "open" or attempt.state == "suspense") then
    call("ZREM", attempt.state == "open" and LEASES or SUSPENSE, attempt.id)
  end
end

-- Move an open attempt's hold to suspense, with `estimate` beside it; there it stays, and counts, until resolved.
-- Returns the era's count after so many `steps` more.
local function suspend(attempt, estimate, now, steps)
  local writes = prepare(attempt.holds, 0, -attempt.amount, attempt.amount)
  local count = count_step(steps)
  call("ZADD", SUSPENSE, now, attempt.id)
  call("ZREM", LEASES, attempt.id)
  apply(writes)
  attempt.state, attempt.estimate = "suspense", estimate
  call("SET", attempt_key(attempt.id), write_attempt(attempt))
  return count
end

-- Move the holds of up to `most` attempts whose lease has run out to suspense; returns how many there were.
-- Nobody is left to say what such an attempt cost, so that the estimate is the whole hold.
local function reap(most, now_ms, now)
  local dead = call("ZRANGEBYSCORE", LEASES, "-inf", "(" .. digits(now_ms), "LIMIT", 0, most)
  for i = 1, #dead do
    local attempt = read_attempt(dead[i])
    if attempt and attempt.state == "open" then
      suspend(attempt, attempt.amount, now, 0)
    else
      call("ZREM", LEASES, dead[i])
    end
  end
  return #dead
end
