-- Book what a provider says that it billed for an attempt, or free what it does not name.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  what was billed, nano-USD; nothing where a bill that should have it has not
-- ARGV[3]  how long to remember the attempt, ms
-- ARGV[4]  1 where this is a step of the account's era, else 0
--
-- Returns {how, what is booked for the attempt now or false, count of the era or false}, where `how` is one of
--   "resolved"  it was in suspense, or freed, or an estimate below the bill was accepted: the bill is booked now
--   "same"      it was booked so before, and where that was a guess nothing lowers it any more; or it was never sent,
--               and not billed
--   "differs"   it was booked otherwise, which stands: nothing lowers what was spent
--   "open"      it is still running
--   "voided"    it was never sent, as far as we know, and was billed
--   "unknown"   it is not ours, or was forgotten
-- What is freed leaves all of it behind as `freed`, with since when it was in suspense in the place of what remains: it
-- may be running, where its worker was cut off: restore.lua holds it again, settle.lua or suspend.lua books its end.

local id, is_named, tombstone = ARGV[1], ARGV[2] ~= "", money(ARGV[3])
local billed = is_named and money(ARGV[2]) or 0
local attempt = read_attempt(id)

local function left()
  if is_named then
    return "settled " .. ARGV[2]
  end
  attempt.state, attempt.amount, attempt.estimate = "freed", "0", "0"
  return write_attempt(attempt)
end

local function book(spent, held, suspense)
  local writes = prepare(attempt.holds, spent, held, suspense)
  attempt.remaining = digits(call("ZMSCORE", SUSPENSE, id)[1] or 0)
  local count = count_step(ARGV[4])
  unlist(attempt)
  apply(writes)
  bury(id, left(), tombstone)
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

local is_settled = attempt.state == "settled"
local booked = tonumber(is_settled and attempt.spent or attempt.amount)
if not is_settled and billed > booked then
  return book(billed - booked, 0, 0)
elseif not is_settled and is_named and billed == booked then
  bury(id, left(), tombstone)
end
return { billed == booked and "same" or "differs", booked, false }
