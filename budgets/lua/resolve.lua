-- Read the key whose text has a given digest.
--
-- KEYS[1]  `pm:{<account>}:secret:<digest>`
-- ARGV[1]  windows: see current_periods
-- ARGV[2]  the era that the gateway knows, or nothing
-- ARGV[3]  the count of that era that the gateway knows
--
-- Returns false where there is no such key, "behind" where it may be among what Redis has lost, else
--   {record, version, 1 where the key or its account has a limit or 0, remaining of the tightest limit or false}

local periods, era, count = current_periods(ARGV[1], (clock()))
local key_id = call("GET", KEYS[1])
local stored = key_id and call("HMGET", PREFIX .. "key:" .. key_id, "record", "version")
if not (stored and stored[1]) then
  return behind(era, count, ARGV[2], tonumber(ARGV[3])) and "behind" or false
end

local tightest = nil
for _, scope in ipairs({ "account", "key:" .. key_id }) do
  each_period(scope, periods, function(_, limit, _, _, _, free)
    if limit and (not tightest or free < tightest) then
      tightest = free
    end
  end)
end
return { stored[1], tonumber(stored[2]), tightest and 1 or 0, tightest or false }
