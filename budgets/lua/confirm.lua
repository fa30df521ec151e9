-- Take what Redis has now for the truth, although it is less than a gateway has seen: a new era begins.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  the era that the gateway knows
--
-- Returns the new era and its count.

local _, now_ms = clock()
local mark = call("HMGET", MARK, "era", "count")
local number = math.max(era_number(ARGV[1]), era_number(mark[1] or ""))
local era = digits(number + 1) .. ":" .. digits(now_ms)

call("HSET", MARK, "era", era)
return { era, tonumber(mark[2] or 0) }
