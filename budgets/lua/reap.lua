-- Move the holds of attempts whose lease has run out to suspense: their worker is dead, or was out of reach too long.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  the most to move in this call
--
-- Returns how many were moved; as many as the most means that there may be more.

local now, now_ms = clock()
return reap(money(ARGV[1]), now_ms, now)
