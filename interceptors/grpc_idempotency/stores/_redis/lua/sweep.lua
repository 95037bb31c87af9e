-- Deletes an expired record, or what is left of it in the indexes if the server has deleted it by itself.
-- KEYS: value, steps, done, expiry. ARGV: time, name. Returns 1 if the operation had expired.
local r = head()
if r and r.state == COMPLETED and not expired(r, now()) then return 0 end
local gone = not r or r.state == COMPLETED
if gone then redis.call('DEL', KEYS[1], KEYS[2]) end
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[2])
return gone and 1 or 0
