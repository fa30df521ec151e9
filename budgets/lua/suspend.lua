-- Move what an attempt holds to suspense: it was sent, and nobody knows what it cost.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  amount held, nano-USD
-- ARGV[3]  our own estimate of the cost, nano-USD
-- ARGV[4]  holds, as reserve returned them: where to book if the attempt is not known
-- ARGV[5]  until when an attempt that is not known may be booked, Unix ms
-- ARGV[6]  key id
-- ARGV[7]  version of the prices
-- ARGV[8]  deployment
--
-- Returns
--   "suspended"  the hold is in suspense
--   "late"       it was already, since the lease had run out; our estimate is beside it now
--   "orphan"     nothing was held, or Redis has lost it: the amount is in suspense
--   "again"      the attempt was settled before, which stands
--   "expired"    not known, and too late to tell a lost attempt from one settled and forgotten: nothing is booked

local id, amount, estimate = ARGV[1], money(ARGV[2]), digits(money(ARGV[3]))
local latest = money(ARGV[5])
local now, now_ms = clock()
local attempt = read_attempt(id)

if attempt and attempt.state == "open" then
  suspend(attempt, estimate, now)
  return "suspended"
elseif attempt and attempt.state == "suspense" then
  redis.call("HSET", attempt_key(id), "estimate", estimate)
  return "late"
elseif attempt and attempt.state == "settled" then
  return "again"
elseif not attempt and now_ms >= latest then
  return "expired"
end

check_types(ARGV[4])
redis.call("DEL", attempt_key(id)) -- a voided attempt that ran after all has a tombstone, which would expire
add(ARGV[4], "suspense", amount)
redis.call("HSET", attempt_key(id), "state", "suspense", "amount", ARGV[2], "holds", ARGV[4], "estimate", estimate,
  "key", ARGV[6], "prices", ARGV[7], "model", ARGV[8])
redis.call("ZADD", SUSPENSE, now, id)
return "orphan"
