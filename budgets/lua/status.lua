-- Read what a scope has used.
--
-- KEYS[1]  `pm:{<account>}:scope:<scope>`
-- ARGV[1]  windows: see current_periods
--
-- Returns {spent, held, suspense, …} of its lifetime, nano-USD, followed for each limit, longest window first, by
-- {window, limit, spent, held, suspense, end of the period in Unix seconds or 0}.

local scope, answer, limits = string.sub(KEYS[1], #scope_key("") + 1), nil, {}

each_period(scope, (current_periods(ARGV[1], (clock()))), function(period, limit, spent, held, suspense)
  answer = answer or { spent, held, suspense }
  if limit then
    limits[#limits + 1] = { period.window, limit, spent, held, suspense, period.resets_at }
  end
end)
for i = 1, #limits do
  answer[#answer + 1] = limits[i]
end
return answer
