-- Read the key whose text has a given digest.
--
-- KEYS[1]  `pm:{<account>}:secret:<digest>`
-- ARGV[1]  windows: see current_periods
--
-- Returns false where there is no such key, else
--   {record, version, 1 where the key or its account has a limit or 0, remaining of the tightest limit or false}

local key_id = redis.call("GET", KEYS[1])
if not key_id then
  return false
end
local stored = redis.call("HMGET", PREFIX .. "key:" .. key_id, "record", "version")
if not stored[1] then
  return false
end

local periods = current_periods(ARGV[1], (clock()))
local tightest = nil
for _, scope in ipairs({ "account", "key:" .. key_id }) do
  for _, count in ipairs(read_scope(scope, periods)) do
    if count.limit and (not tightest or count.free < tightest) then
      tightest = count.free
    end
  end
end
return { stored[1], tonumber(stored[2]), tightest and 1 or 0, tightest or false }
