-- Stores a finished step of a running, undoing or held record, with its time and its place in the order.
-- KEYS: value, steps, due. ARGV: time, name, fence, name of the step, packed step. Returns 1 if the step was stored.
local r = head()
if not r or r.fence ~= ARGV[3] or not (leased(r) or r.state == HELD) then return 0 end
begin()
local place = redis.call('HLEN', KEYS[2])
local kept = redis.call('HSETNX', KEYS[2], ARGV[4], struct.pack('>dI4', now(), place) .. ARGV[5])
if leased(r) and not is_for_recovery(r, KEYS[2]) then redis.call('ZREM', KEYS[3], ARGV[2]) end
return kept
