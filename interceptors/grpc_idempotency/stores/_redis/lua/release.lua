-- Deletes a running, undoing or held record with its steps; for recovery, a lapsed one that has no steps.
-- KEYS: value, request, steps, waiters, open, due. ARGV: time, name, fence, 1 for recovery or empty.
-- Returns 1 if the record was deleted.
local r = head()
if not r or r.fence ~= ARGV[3] then return 0 end
if ARGV[4] ~= '' then
  if not lapsed(r, now()) or redis.call('HLEN', KEYS[3]) > 0 then return 0 end
elseif r.state ~= HELD and not leased(r) then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[5], place(r, ARGV[2]))
redis.call('ZREM', KEYS[6], ARGV[2])
tell(KEYS[4])
return 1
