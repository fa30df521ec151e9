-- Move what an attempt holds to suspense: it was sent, and nobody knows what it cost.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  amount held, nano-USD
-- ARGV[3]  our own estimate of the cost, nano-USD
-- ARGV[4]  holds, as reserve returned them: where to book if the attempt is not known
-- ARGV[5]  until when an attempt that is not known may be booked, Unix ms
-- ARGV[6]  1 where this is a step of the account's era, else 0
-- ARGV[7]  key id
-- ARGV[8]  version of the prices
-- ARGV[9]  deployment
-- ARGV[10] how long ago the attempt ended, ms by the gateway's clock, which may differ from that of Redis
--
-- Returns {how, count of the era}, where `how` is one of
--   "suspended"  the hold is in suspense
--   "late"       it was already, since the lease had run out; our estimate is beside it now
--   "orphan"     nothing was held, or Redis has lost it: the amount is in suspense; so it is where the
--                attempt was freed as not billed while it was running
--   "again"      the attempt was settled before, which stands
--   "expired"    not known, and too late to tell a lost attempt from one settled and forgotten: nothing is booked

local id, amount, estimate = ARGV[1], money(ARGV[2]), digits(money(ARGV[3]))
local latest, age = money(ARGV[5]), money(ARGV[10])
local key, prices, model = one_line(ARGV[7]), one_line(ARGV[8]), one_line(ARGV[9])
local now, now_ms = clock()
local attempt = read_attempt(id)

-- Whether an attempt that is free ended after it came to suspense, in the second after `remaining` (see reconcile.lua).
local function is_freed_too_early(freed)
  return freed.state == "freed" and now_ms - age >= (freed.remaining + 1) * 1000
end

if attempt and (attempt.state == "open" or attempt.state == "suspense") then
  raise(attempt, amount)
end
if attempt and attempt.state == "open" then
  return { "suspended", suspend(attempt, estimate, now, ARGV[6]) }
elseif attempt and attempt.state == "suspense" then
  attempt.estimate = estimate
  call("SET", attempt_key(id), write_attempt(attempt))
  return { "late", false }
elseif attempt and attempt.state ~= "voided" and not is_freed_too_early(attempt) then
  return { "again", false }
elseif not attempt and now_ms >= latest then
  return { "expired", false }
end

local writes = prepare(ARGV[4], 0, 0, amount)
local count = count_step(ARGV[6])
call("ZADD", SUSPENSE, now, id)
apply(writes)
call("SET", attempt_key(id), write_attempt({
  state = "suspense",
  amount = digits(amount),
  estimate = estimate,
  remaining = "",
  key = key,
  prices = prices,
  model = model,
  holds = ARGV[4],
}))
return { "orphan", count }
