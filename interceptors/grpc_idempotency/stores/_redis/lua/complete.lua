-- Stores the outcome of a running, undoing or held record; for an operator, of a held one.
-- KEYS: value, request, steps, waiters, open, due, done, expiry; for an operator, notes. ARGV: time, name, fence, packed
-- outcome, ttl, 1 if completed records are listed or empty, how long the server keeps the value after its expiry; for an
-- operator, a note or empty, how long notes are kept.
-- Returns when the outcome was stored, or nil.
local at, name, resolves, listed = now(), ARGV[2], KEYS[9], ARGV[6] ~= ''
local value = redis.call('GET', KEYS[1])
if not value then return false end
local r = decode(value)
if r.fence ~= ARGV[3] then return false end
if r.state == COMPLETED then
  -- The answer to an earlier try may have been lost.
  if resolves or expired(r, at) or string.sub(value, before_ending(r) + 1) ~= ARGV[4] then return false end
  return r.completed
end
if r.state == WAITING or (resolves and r.state ~= HELD) then return false end
begin()
local identity = string.sub(value, HEAD + 1, before_owner(r))
redis.call('ZREM', KEYS[5], place(r, name))
r.state, r.till, r.completed, r.expires, r.owner_length, r.reason_length = COMPLETED, 0, at, at + ARGV[5], 0, 0
r.flags = bit.band(r.flags, STREAMS) + (resolves and RESOLVED or 0)
local kept = ARGV[5] + ARGV[7]
redis.call('SET', KEYS[1], encode(r) .. identity .. ARGV[4], 'PX', kept)
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[3], kept)
redis.call('ZREM', KEYS[6], name)
if listed then
  local where = place(r, name)
  redis.call('ZADD', KEYS[7], 0, where)
  redis.call('ZADD', KEYS[8], r.expires, where)
end
if resolves then leave(KEYS[9], ARGV[8], at, ARGV[9]) end
tell(KEYS[4])
return at
