-- Tend an account: move the holds of attempts whose lease has run out to suspense (their worker is dead, or was out of
-- reach too long), and accept our own estimate for what has been in suspense for too long.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  the most to move, and the most to accept, in this call
-- ARGV[2]  seconds in suspense after which an estimate is accepted, or nothing for never
-- ARGV[3]  how long to remember an accepted estimate, ms: an export that comes late can still raise it
-- ARGV[4]  the era that the gateway knows, or nothing
-- ARGV[5]  the count of that era that the gateway knows
-- ARGV[6]  windows: see current_periods
--
-- Returns {how many were moved, how many were accepted, era, count, 1 where the account contradicts itself or 0}; as many
-- as the most means that there may be more. Nothing is touched where Redis has lost what the gateway knows.

local most, remembered = money(ARGV[1]), money(ARGV[3])
local now, now_ms = clock()
checked_clock(ARGV[6], now) -- one that has jumped ahead makes everything look old
local mark = call("HMGET", MARK, "era", "count")
local era, count = mark[1] or "", tonumber(mark[2] or 0)

-- No step: where Redis loses it, the attempt is in suspense again, and accepted again.
local function accept(id)
  local attempt = read_attempt(id)
  if not attempt or attempt.state ~= "suspense" then
    call("ZREM", SUSPENSE, id)
    return
  end
  local writes = prepare(attempt.holds, attempt.estimate, released(attempt))
  unlist(attempt)
  apply(writes)
  attempt.state, attempt.amount = "accepted", attempt.estimate
  bury(id, write_attempt(attempt), remembered)
end

-- Whether something is held and no attempt holds it, or in suspense likewise; or something is below zero.
local function contradicts_itself()
  local _, held, suspense = read_period(call("HGET", scope_key("account"), LIFETIME.id))
  return held < 0
    or suspense < 0
    or held > 0 and call("ZCARD", LEASES) == 0
    or suspense > 0 and call("ZCARD", SUSPENSE) == 0
end

if behind(era, count, ARGV[4], tonumber(ARGV[5])) then
  return { 0, 0, era, count, 0 }
end

local reaped, old = reap(most, now_ms, now), {}
if ARGV[2] ~= "" then
  old = call("ZRANGEBYSCORE", SUSPENSE, "-inf", digits(now - tonumber(ARGV[2])), "LIMIT", 0, most)
  for i = 1, #old do
    accept(old[i])
  end
end
return { reaped, #old, era, count, contradicts_itself() and 1 or 0 }
