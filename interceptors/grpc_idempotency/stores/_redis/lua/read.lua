-- Reads a record: its value, the time, and its request if there is a key for it. Returns nil if the operation is absent.
-- KEYS: value, and request if it is wanted. ARGV: time, name.
local at = now()
local value = redis.call('GET', KEYS[1])
if not value or expired(decode(value), at) then return false end
return {value, at, KEYS[2] and redis.call('GET', KEYS[2])}
