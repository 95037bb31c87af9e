-- Sets the lease of a running or undoing record to end a given time from now.
-- KEYS: value, due. ARGV: time, name, fence, lease. Returns 1 if the record was changed.
if not leased_head(ARGV[3]) then return 0 end
local till = now() + ARGV[4]
begin()
redis.call('SETRANGE', KEYS[1], TILL, struct.pack('>d', till))
redis.call('ZADD', KEYS[2], 'XX', till, ARGV[2])
return 1
