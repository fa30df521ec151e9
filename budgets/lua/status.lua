-- Read what a scope has used.
--
-- KEYS[1]  `pm:{<account>}:scope:<scope>`
-- ARGV[1]  windows: see current_periods
--
-- Returns {spent, held, suspense, …} of its lifetime, nano-USD, followed for each limit, longest window first, by
-- {window, limit, spent, held, suspense, end of the period in Unix seconds or 0}.

local scope = string.sub(KEYS[1], #scope_key("") + 1)
local counted = read_scope(scope, current_periods(ARGV[1], (clock())))
local lifetime = counted[1]
local answer = { lifetime.spent, lifetime.held, lifetime.suspense }

for _, count in ipairs(counted) do
  if count.limit then
    local period = count.period
    answer[#answer + 1] = { period.window, count.limit, count.spent, count.held, count.suspense, period.resets_at }
  end
end
return answer
