-- Makes a running or undoing record waiting.
-- KEYS: value, steps, waiters, open, due. ARGV: time, name, fence, delay, failed runs, failed undos. Returns 1 if the record was
-- changed.
local r = leased_head(ARGV[3])
if not r then return 0 end
begin()
become(r, WAITING, KEYS[4], ARGV[2])
r.till, r.failed_runs, r.failed_undos = now() + ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
redis.call('SETRANGE', KEYS[1], 0, encode(r))
if is_for_recovery(r, KEYS[2]) then
  redis.call('ZADD', KEYS[5], r.till, ARGV[2])
else
  redis.call('ZREM', KEYS[5], ARGV[2])
end
tell(KEYS[3])
return 1
