-- Extend the leases of attempts that are still running.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  lease from now on, ms
-- ARGV[2…] attempt ids
--
-- Returns the ids that have no lease. One that was reaped gets none: its hold is in suspense, and its settle will be a
-- late one. One that Redis has lost can be had again by restore.lua.

local _, now_ms = clock()
local till = digits(now_ms + money(ARGV[1]))
local ids = { unpack(ARGV, 2) }
local ends, renewals, without = call("ZMSCORE", LEASES, unpack(ids)), {}, {}

for i, id in ipairs(ids) do
  if ends[i] then
    renewals[#renewals + 1] = till
    renewals[#renewals + 1] = id
  else
    without[#without + 1] = id
  end
end
if #renewals > 0 then
  call("ZADD", LEASES, "XX", unpack(renewals))
end
return without
