-- Deletes an expired record, or what is left of it in the indexes if the server has deleted it by itself.
-- KEYS: value, steps, done, expiry. ARGV: time, name, place. Returns 1 if the operation had expired.
local r = head()
local own = r and r.state == COMPLETED and place(r, ARGV[2]) == ARGV[3]
if own and not expired(r, now()) then return 0 end
local gone = own or not r
if gone then redis.call('DEL', KEYS[1], KEYS[2]) end
redis.call('ZREM', KEYS[3], ARGV[3])
redis.call('ZREM', KEYS[4], ARGV[3])
return gone and 1 or 0
