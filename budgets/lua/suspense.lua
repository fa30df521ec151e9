-- List what is in suspense, oldest first.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  rank of the first to list
-- ARGV[2]  the most to list
--
-- Returns for each {attempt id, since when (Unix seconds), amount, our estimate, key id, prices, deployment}.

local start = money(ARGV[1])
local listed = redis.call("ZRANGE", SUSPENSE, start, start + money(ARGV[2]) - 1, "WITHSCORES")
local answer = {}

for i = 1, #listed, 2 do
  local attempt = read_attempt(listed[i])
  if attempt and attempt.state == "suspense" then
    answer[#answer + 1] = { listed[i], tonumber(listed[i + 1]), tonumber(attempt.amount), tonumber(attempt.estimate),
      attempt.key, attempt.prices, attempt.model }
  end
end
return answer
