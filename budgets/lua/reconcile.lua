-- Book what a provider says that it billed for an attempt.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  what was billed, nano-USD
-- ARGV[3]  how long to remember the attempt, ms
-- ARGV[4]  1 where this is a step of the account's era, else 0
--
-- Returns {how, what is booked for the attempt now or false, count of the era or false}, where `how` is one of
--   "resolved"  it was in suspense, or an estimate below the bill was accepted: the bill is booked now
--   "same"      it was booked so before; or it was never sent, and not billed
--   "differs"   it was booked otherwise, which stands: nothing lowers what was spent
--   "open"      it is still running
--   "voided"    it was never sent, as far as we know, and was billed
--   "unknown"   it is not ours, or was forgotten

local id, billed, tombstone = ARGV[1], money(ARGV[2]), money(ARGV[3])
local attempt = read_attempt(id)

local function book(spent, held, suspense)
  local writes = prepare(attempt.holds, spent, held, suspense)
  local count = count_step(ARGV[4])
  unlist(attempt)
  apply(writes)
  bury(id, "settled " .. ARGV[2], tombstone)
  return { "resolved", billed, count }
end

if not attempt then
  return { "unknown", false, false }
elseif attempt.state == "open" then
  return { "open", false, false }
elseif attempt.state == "voided" then
  return { billed == 0 and "same" or "voided", 0, false }
elseif attempt.state == "suspense" then
  return book(billed, released(attempt))
end

local booked = tonumber(attempt.state == "accepted" and attempt.amount or attempt.spent)
if attempt.state == "accepted" and billed > booked then
  return book(billed - booked, 0, 0)
end
return { billed == booked and "same" or "differs", booked, false }
