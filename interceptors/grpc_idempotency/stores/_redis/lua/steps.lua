-- Reads the finished steps of an operation, in no order: names and packed steps in turn.
-- KEYS: value, steps. ARGV: time, name.
local r = head()
if not r or expired(r, now()) then return {} end
return redis.call('HGETALL', KEYS[2])
