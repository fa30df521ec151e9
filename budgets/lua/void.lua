-- Give back what an attempt holds, because it was never sent. A reserve that comes after this finds it closed.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  how long to remember the attempt, ms
--
-- Returns
--   "voided"   the hold is given back
--   "late"     the lease had run out: the suspense is given back
--   "unknown"  nothing was held
--   "again"    it was voided before, or settled, which stands

local id, tombstone = ARGV[1], money(ARGV[2])
local attempt = read_attempt(id)

if not attempt then
  close(id, "voided", tombstone)
  return "unknown"
elseif attempt.state == "settled" or attempt.state == "voided" then
  return "again"
end

check_types(attempt.holds)
release(attempt)
close(id, "voided", tombstone)
return attempt.state == "open" and "voided" or "late"
