-- Counts the records of one tag.
-- KEYS: open, done, expiry, methods. ARGV: time, 1 if completed ones are wanted or empty. Returns method, state and count in
-- turn.
local expired, found = {}, {}
if ARGV[2] ~= '' then
  for _, one in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now())) do
    local lane = string.sub(one, 1, 5)
    expired[lane] = (expired[lane] or 0) + 1
  end
end
for state = RUNNING, UNDOING do
  local index = KEYS[state == COMPLETED and 2 or 1]
  for _, lane in ipairs((state ~= COMPLETED or ARGV[2] ~= '') and lanes(index, state) or {}) do
    local number = redis.call('ZLEXCOUNT', index, '[' .. lane, beyond(lane)) - (expired[lane] or 0)
    found[#found + 1] = redis.call('HGET', KEYS[4], string.sub(lane, 2))
    found[#found + 1] = state
    found[#found + 1] = number
  end
end
return found
