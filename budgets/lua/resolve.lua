-- Read the key whose text has a given digest.
--
-- KEYS[1]  `pm:{<account>}:secret:<digest>`
-- ARGV[1]  windows: see current_periods
-- ARGV[2]  the era that the gateway knows, or nothing
-- ARGV[3]  the count of that era that the gateway knows
--
-- Returns false where there is no such key, "behind" where it may be among what Redis has lost, else
--   {record, version, 1 where the key or its account has a limit or may have lost one or 0, remaining of the tightest
--   limit or false}

local CHANGE = 1000000 -- the steps of the era that a change of a key or of a limit counts for (budgets/marks.py)

local periods, era, count = current_periods(ARGV[1], (clock()))
local key_id = call("GET", KEYS[1])
local stored = key_id and call("HMGET", PREFIX .. "key:" .. key_id, "record", "version")
if not (stored and stored[1]) then
  return behind(era, count, ARGV[2], tonumber(ARGV[3])) and "behind" or false
end

-- Whether a change may be among what Redis has lost. A count that was given up as lost for good says no more which.
local function may_lack_a_limit()
  local known_era, known_count = ARGV[2], tonumber(ARGV[3])
  return behind(era, count, known_era, known_count) and (era ~= known_era or known_count - count >= CHANGE)
end

local tightest = nil
for _, scope in ipairs({ "account", "key:" .. key_id }) do
  each_period(scope, periods, function(_, limit, _, _, _, free)
    if limit and (not tightest or free < tightest) then
      tightest = free
    end
  end)
end
return { stored[1], tonumber(stored[2]), (tightest or may_lack_a_limit()) and 1 or 0, tightest or false }
