-- Makes a running or undoing record held, and drops its request.
-- KEYS: value, request, waiters, open, due. ARGV: time, name, fence, reason, 1 if only a lapsed record or empty.
-- Returns 1 if the record was changed.
local r = leased_head(ARGV[3])
if not r or (ARGV[5] ~= '' and not lapsed(r, now())) then return 0 end
local value, reason_at, ending_at = redis.call('GET', KEYS[1]), before_reason(r), before_ending(r)
begin()
become(r, HELD, KEYS[4], ARGV[2])
r.till, r.reason_length, r.flags = 0, #ARGV[4], bit.band(r.flags, STREAMS)
redis.call('SET', KEYS[1],
  encode(r) .. string.sub(value, HEAD + 1, reason_at) .. ARGV[4] .. string.sub(value, ending_at + 1))
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[5], ARGV[2])
tell(KEYS[3])
return 1
