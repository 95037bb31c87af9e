-- Deletes a running, undoing or held record with its steps; for an operator, a held one.
-- KEYS: value, request, steps, waiters, open, due. ARGV: time, name, fence, 1 for an operator or empty.
-- Returns 1 if the record was deleted.
local r = head()
if not r or r.fence ~= ARGV[3] then return 0 end
if r.state ~= HELD and (ARGV[4] ~= '' or not leased(r)) then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[5], ARGV[2])
redis.call('ZREM', KEYS[6], ARGV[2])
tell(KEYS[4])
return 1
