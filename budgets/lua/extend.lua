-- Hold more for an attempt that is open, in the periods that hold its amount already.
--
-- KEYS[1]  the account's leases
-- ARGV[1]  attempt id
-- ARGV[2]  what it shall hold in all, nano-USD
-- ARGV[3]  the era that the gateway knows, or nothing
-- ARGV[4]  the count of that era that the gateway knows
--
-- Returns one of
--   {"held", remaining of the tightest limit or false}
--   {"refused", remaining of the tightest limit, scope, window, start of its period, limit, what is left, suspense}
--   {"behind"}   Redis has lost what the gateway knows: nobody gets more
--   {"closed", state, or false where Redis does not know the attempt}
-- An attempt that holds as much already, or more, keeps it: asked twice it holds once.

local id, wanted = ARGV[1], money(ARGV[2])
local attempt = read_attempt(id)
local mark = call("HMGET", MARK, "era", "count")

if behind(mark[1] or "", tonumber(mark[2] or 0), ARGV[3], tonumber(ARGV[4])) then
  return { "behind" }
elseif not attempt or attempt.state ~= "open" then
  return { "closed", attempt and attempt.state or false }
end
local more = wanted - attempt.amount
if more <= 0 then
  return { "held", tonumber(attempt.remaining) or false }
end

local tightest, refusal = nil, nil
for scope, ids in gmatch(attempt.holds, "(%S+)([^\n]*)\n?") do
  local limits = call("HGET", scope_key(scope), "limits") or ""
  for window, start in gmatch(ids, "(%l+):(%d+)") do
    local limit = tonumber(match(limits, window .. "=(%d+)"))
    local spent, held, suspense = read_period(call("HGET", scope_key(scope), window .. ":" .. start))
    local free = (limit or MOST) - spent - held - suspense
    if more > free and not refusal then
      refusal = { scope, window, tonumber(start), limit or MOST, free, suspense }
    end
    if limit and (not tightest or free < tightest) then
      tightest = free
    end
  end
end
if refusal then
  return { "refused", tightest or refusal[5], unpack(refusal) }
end

local writes = prepare(attempt.holds, 0, more, 0)
apply(writes)
attempt.amount = digits(wanted)
attempt.remaining = tightest and digits(tightest - more) or ""
call("SET", attempt_key(id), write_attempt(attempt))
return { "held", tonumber(attempt.remaining) or false }
