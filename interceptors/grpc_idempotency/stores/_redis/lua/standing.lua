-- Reads the heads of many values of one tag, and the time.
-- KEYS: values. ARGV: time. Returns the time, and for each key a head, or empty if there is no value.
local found = {now()}
for i, key in ipairs(KEYS) do found[i + 1] = redis.call('GETRANGE', key, 0, HEAD - 1) end
return found
