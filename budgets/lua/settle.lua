-- Book what an attempt cost. What was spent is booked whatever became of the hold, and only once.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  exact cost, nano-USD
-- ARGV[3]  holds, as reserve returned them: where to book if the attempt is not known
-- ARGV[4]  how long to remember the attempt, ms
-- ARGV[5]  until when an attempt that is not known may be booked, Unix ms
-- ARGV[6]  1 where this is a step of the account's era, else 0
--
-- Returns {how, count of the era}, where `how` is one of
--   "settled"    the hold is given back, the cost booked
--   "late"       the lease had run out: the suspense is given back, the cost booked
--   "corrected"  an estimate was accepted, or the suspense freed as not billed: the cost is booked in its place
--   "orphan"     nothing was held, or Redis has lost it: the cost is booked
--   "again"      it was settled before: nothing is booked
--   "expired"    not known, and too late to tell a lost attempt from one settled and forgotten: nothing is booked

local id, spent = ARGV[1], money(ARGV[2])
local tombstone, latest = money(ARGV[4]), money(ARGV[5])
local _, now_ms = clock()
local attempt = read_attempt(id)

if attempt and attempt.state == "settled" then
  return { "again", false }
elseif not attempt and now_ms >= latest then
  return { "expired", false }
end

local known = attempt and attempt.state ~= "voided"
local guessed = known and is_guess(attempt)
local held, suspense = 0, 0
if guessed then
  spent = spent - attempt.amount
elseif known then
  held, suspense = released(attempt)
end
local writes = prepare(known and attempt.holds or ARGV[3], spent, held, suspense)
local count = count_step(ARGV[6])
unlist(attempt)
apply(writes)
bury(id, "settled " .. ARGV[2], tombstone)
if not known then
  return { "orphan", count }
end
return { guessed and "corrected" or attempt.state == "open" and "settled" or "late", count }
