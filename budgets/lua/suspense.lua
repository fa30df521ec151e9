-- Read what is in suspense of some attempts.
--
-- KEYS[1]  the account's leases
-- ARGV[…]  attempt ids
--
-- Returns for each that is in suspense {attempt id, since when (Unix seconds), amount, our estimate, key id, prices,
-- deployment}.

local since, answer = call("ZMSCORE", SUSPENSE, unpack(ARGV)), {}

for i, id in ipairs(ARGV) do
  local attempt = since[i] and read_attempt(id)
  if attempt and attempt.state == "suspense" then
    answer[#answer + 1] = { id, tonumber(since[i]), tonumber(attempt.amount), tonumber(attempt.estimate), attempt.key,
      attempt.prices, attempt.model }
  end
end
return answer
