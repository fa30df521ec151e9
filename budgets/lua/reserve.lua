-- Hold an amount on all scopes of an attempt, or on none.
--
-- KEYS[1]  the account's leases: sorted set, attempt id → end of its lease (ms)
-- ARGV[1]  attempt id
-- ARGV[2]  key id
-- ARGV[3]  version of the key's record as the caller knows it
-- ARGV[4]  amount, nano-USD
-- ARGV[5]  lease, ms
-- ARGV[6]  version of the prices
-- ARGV[7]  deployment
-- ARGV[8]  windows: see current_periods
-- ARGV[9…] scopes, outermost first
--
-- Returns one of, where `reaped` is how many dead leases were moved to suspense on the way:
--   {"held", reaped, remaining of the tightest limit or false, holds}
--   {"closed", reaped, state}                    the attempt was resolved before
--   {"stale", reaped, version or 0, record or false}   the key changed, or is gone
--   {"refused", reaped, remaining of the tightest limit, scope, window, limit, what is left of it, reset or 0, suspense}
-- An attempt that is open gets the answer it had. An amount is admitted where spent + held + suspense + amount ≤ limit
-- in every limited period of every scope; a refusal writes nothing.

local REAPED_ON_THE_WAY = 3

local id, key_id, amount = ARGV[1], ARGV[2], money(ARGV[4])
local lease = money(ARGV[5])
local now, now_ms = clock()
local periods = current_periods(ARGV[8], now)

-- The first limit that refuses is named: the outermost scope's, and of that the one that resets last.
local function check(counted)
  local refusal, tightest = nil, nil
  for _, count in ipairs(counted) do
    if amount > count.free and not refusal then
      refusal = count
    end
    if count.limit and (not tightest or count.free < tightest) then
      tightest = count.free
    end
  end
  return refusal, tightest
end

local function holds_of(counted)
  local parts, scope = {}, nil
  for _, count in ipairs(counted) do
    if count.scope ~= scope then
      scope = count.scope
      parts[#parts + 1] = (#parts > 0 and "\n" or "") .. scope
    end
    parts[#parts + 1] = " " .. count.period.id
  end
  return table.concat(parts)
end

-- As a scope's new period begins, its periods before the previous one go, except where something is still open.
local function forget_old_periods(count)
  local key, window, open, old = scope_key(count.scope), count.period.window, {}, {}
  local values = redis.call("HGETALL", key)
  for i = 1, #values, 2 do
    local start, kind = string.match(values[i], "^" .. window .. ":(%d+):(%l+)$")
    if start and tonumber(start) < count.period.previous then
      old[#old + 1] = { field = values[i], start = start }
      open[start] = open[start] or (kind ~= "spent" and values[i + 1] ~= "0")
    end
  end
  for _, entry in ipairs(old) do
    if not open[entry.start] then
      redis.call("HDEL", key, entry.field)
    end
  end
end

local reaped = reap(REAPED_ON_THE_WAY, now_ms, now)

local known = redis.call("HMGET", attempt_key(id), "state", "holds", "remaining")
if known[1] == "open" then
  return { "held", reaped, tonumber(known[3]) or false, known[2] }
elseif known[1] then
  return { "closed", reaped, known[1] }
end

local stored = redis.call("HMGET", PREFIX .. "key:" .. key_id, "version", "record")
if stored[1] ~= ARGV[3] then
  return { "stale", reaped, tonumber(stored[1] or 0), stored[2] }
end

local counted = {}
for i = 9, #ARGV do
  for _, count in ipairs(read_scope(ARGV[i], periods)) do
    counted[#counted + 1] = count
  end
end
local refusal, tightest = check(counted)
if refusal then
  local period = refusal.period
  local limit, free = refusal.limit or MOST, refusal.free
  return { "refused", reaped, tightest or free, refusal.scope, period.window, limit, free, period.resets_at,
    refusal.suspense }
end

local holds, remaining = holds_of(counted), tightest and tightest - amount
for _, count in ipairs(counted) do
  redis.call("HINCRBY", scope_key(count.scope), count.period.id .. ":held", digits(amount))
  if count.new and count.period.previous then
    forget_old_periods(count)
  end
end
redis.call("HSET", attempt_key(id), "state", "open", "amount", ARGV[4], "holds", holds,
  "remaining", remaining and digits(remaining) or "", "key", key_id, "prices", ARGV[6], "model", ARGV[7])
redis.call("ZADD", LEASES, digits(now_ms + lease), id)
return { "held", reaped, remaining or false, holds }
