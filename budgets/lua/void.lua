-- Give back what an attempt holds, because it was never sent. A reserve that comes after this finds it closed.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  how long to remember the attempt, ms
--
-- Returns {how, count of the era}, where `how` is one of
--   "voided"   the hold is given back
--   "late"     the lease had run out: the suspense is given back, or the estimate that was accepted for it
--   "unknown"  nothing was held
--   "again"    it was voided before, or settled, which stands

local id, tombstone = ARGV[1], money(ARGV[2])
local attempt = read_attempt(id)

if not attempt then
  bury(id, "voided", tombstone)
  return { "unknown", false }
elseif attempt.state == "settled" or attempt.state == "voided" then
  return { "again", false }
elseif is_guess(attempt) then
  apply(prepare(attempt.holds, -attempt.amount, 0, 0))
  bury(id, "voided", tombstone)
  return { "late", false }
end

local writes = prepare(attempt.holds, 0, released(attempt))
unlist(attempt)
apply(writes)
bury(id, "voided", tombstone)
return { attempt.state == "open" and "voided" or "late", false }
