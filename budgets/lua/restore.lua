-- Write a hold again that Redis has granted and lost, whole or what it was extended by. It was admitted, so nothing is
-- checked but what is known of it.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  amount held, nano-USD
-- ARGV[3]  lease, ms
-- ARGV[4]  holds, as reserve returned them
-- ARGV[5]  key id
-- ARGV[6]  version of the prices
-- ARGV[7]  deployment
--
-- Returns "restored", or the state of an attempt that is known. One that was freed, as no bill names it, is running
-- after all: it holds its amount again.

local id, amount, lease = ARGV[1], money(ARGV[2]), money(ARGV[3])
local key, prices, model = one_line(ARGV[5]), one_line(ARGV[6]), one_line(ARGV[7])
local _, now_ms = clock()
local attempt = read_attempt(id)

if attempt and (attempt.state == "open" or attempt.state == "suspense") and raise(attempt, amount) then
  return "restored"
elseif attempt and attempt.state ~= "freed" then
  return attempt.state
end

local writes = prepare(ARGV[4], 0, amount, 0)
call("ZADD", LEASES, digits(now_ms + lease), id)
apply(writes)
call("SET", attempt_key(id), write_attempt({
  state = "open",
  amount = digits(amount),
  estimate = "0",
  remaining = "",
  key = key,
  prices = prices,
  model = model,
  holds = ARGV[4],
}))
return "restored"
