-- Extend the leases of attempts that are still running.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  lease from now on, ms
-- ARGV[2…] attempt ids
--
-- Returns nothing. What has no lease any more gets none: its hold is in suspense, and its settle will be a late one.

local _, now_ms = clock()
local till = digits(now_ms + money(ARGV[1]))
local renewals = {}

for i = 2, #ARGV do
  renewals[#renewals + 1] = till
  renewals[#renewals + 1] = ARGV[i]
end
redis.call("ZADD", LEASES, "XX", unpack(renewals))
