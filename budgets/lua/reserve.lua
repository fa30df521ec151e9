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
-- ARGV[8]  the era that the gateway knows, or nothing
-- ARGV[9]  the count of that era that the gateway knows
-- ARGV[10] windows: see current_periods
-- ARGV[11…] scopes, outermost first
--
-- Returns one of, where `reaped` is how many dead leases were moved to suspense on the way:
--   {"held", reaped, remaining of the tightest limit or false, holds, era, count}
--   {"behind", 0, era, count}                    Redis has lost what the gateway knows: nobody is admitted
--   {"closed", reaped, state}                    the attempt was resolved before
--   {"stale", reaped, version or 0, record or false}   the key changed, or is gone
--   {"refused", reaped, remaining of the tightest limit, scope, window, limit, what is left of it, reset or 0, suspense}
-- An attempt that is open gets the answer it had. An amount is admitted where spent + held + suspense + amount ≤ limit
-- in every limited period of every scope; a refusal writes nothing.

local REAPED_ON_THE_WAY = 3

local id, key_id, amount = ARGV[1], one_line(ARGV[2]), money(ARGV[4])
local lease, prices, model = money(ARGV[5]), one_line(ARGV[6]), one_line(ARGV[7])
local now, now_ms = clock()
local periods, era, count = current_periods(ARGV[10], now)

-- As a scope's new period begins, its periods before the previous one go, except where something is still open.
local function forget_old_periods(scope, period)
  local key = scope_key(scope)
  local fields = call("HGETALL", key)
  for i = 1, #fields, 2 do
    local start = tonumber(match(fields[i], "^" .. period.window .. ":(%d+)$"))
    if start and start < (period.previous or 0) + 0 and find(fields[i + 1], "^%d+ 0 0$") then
      call("HDEL", key, fields[i])
    end
  end
end

if behind(era, count, ARGV[8], tonumber(ARGV[9])) then
  return { "behind", 0, era, count }
end

local reaped = reap(REAPED_ON_THE_WAY, now_ms, now)

local known = read_attempt(id)
if known and known.state == "open" then
  return { "held", reaped, tonumber(known.remaining) or false, known.holds, era, count }
elseif known then
  return { "closed", reaped, known.state }
end

local key = PREFIX .. "key:" .. key_id
local version = call("HGET", key, "version")
if version ~= ARGV[3] then
  return { "stale", reaped, tonumber(version or 0), call("HGET", key, "record") }
end

-- The first limit that refuses is named: the outermost scope's, and of that the one that resets last. This is
-- each_period written out: every request runs it, and a call for each period is felt.
local refusal, tightest, begun, holds, writes = nil, nil, {}, {}, {}

for i = 11, #ARGV do
  local scope = ARGV[i]
  local key = scope_key(scope)
  local write, line = { "HSET", key }, scope
  local values = call("HMGET", key, unpack(periods.fields))
  local limits = read_limits(values[1])
  for n = 1, #periods do
    local period, text = periods[n], values[n + 1]
    local limit = limits[period.window]
    if limit or n == 1 then
      local spent, held, suspense = read_period(text)
      local free = (limit or MOST) - spent - held - suspense
      if amount > free and not refusal then
        refusal = { scope, period.window, limit or MOST, free, period.resets_at, suspense }
      end
      if limit and (not tightest or free < tightest) then
        tightest = free
      end
      write[#write + 1], write[#write + 2] = period.id, write_period(spent, held + amount, suspense)
      line = line .. " " .. period.id
      if not text and n > 1 then
        begun[#begun + 1] = { scope, period }
      end
    end
  end
  holds[i - 10], writes[i - 10] = line, write
end
if refusal then
  return { "refused", reaped, tightest or refusal[4], unpack(refusal) }
end

if era == "" then
  era = "1:" .. digits(now_ms)
  call("HSET", MARK, "era", era)
end
for i = 2, #periods do
  if periods[i].first_use then
    call("HSET", MARK, periods[i].window, periods[i].start)
  end
end
call("ZADD", LEASES, digits(now_ms + lease), id)
apply(writes)
for i = 1, #begun do
  forget_old_periods(unpack(begun[i]))
end
holds = table.concat(holds, "\n")
local remaining = tightest and tightest - amount
call("SET", attempt_key(id), write_attempt({
  state = "open",
  amount = digits(amount),
  estimate = "0",
  remaining = remaining and digits(remaining) or "",
  key = key_id,
  prices = prices,
  model = model,
  holds = holds,
}))
return { "held", reaped, remaining or false, holds, era, count }
