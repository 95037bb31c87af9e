-- Makes a running record undoing, and stores the failure with it.
-- KEYS: value, open. ARGV: time, name, fence, packed failure. Returns 1 if the record was changed, now or by an earlier try.
local r = leased_head(ARGV[3])
if not r then return 0 end
if r.state == UNDOING then
  return redis.call('GETRANGE', KEYS[1], before_ending(r), -1) == ARGV[4] and 1 or 0
end
begin()
become(r, UNDOING, KEYS[2], ARGV[2])
redis.call('SETRANGE', KEYS[1], 0, encode(r))
redis.call('APPEND', KEYS[1], ARGV[4])
return 1
