-- Stores the outcome of a running, undoing or held record; for an operator, of a held one.
-- KEYS: value, request, steps, waiters, open, due, done, expiry. ARGV: time, name, fence, packed outcome, ttl, 1 for an
-- operator or empty, 1 if completed records are listed or empty, how long the server keeps the value after its expiry.
-- Returns when the outcome was stored, or nil.
local at, name, resolves, listed = now(), ARGV[2], ARGV[6] ~= '', ARGV[7] ~= ''
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
local identity = string.sub(value, HEAD + 1, HEAD + r.method_length + r.prints_length)
r.state, r.till, r.completed, r.expires, r.owner_length, r.reason_length = COMPLETED, 0, at, at + ARGV[5], 0, 0
r.flags = bit.band(r.flags, STREAMS) + (resolves and RESOLVED or 0)
local kept = ARGV[5] + ARGV[8]
redis.call('SET', KEYS[1], encode(r) .. identity .. ARGV[4], 'PX', kept)
redis.call('DEL', KEYS[2])
redis.call('PEXPIRE', KEYS[3], kept)
redis.call('ZREM', KEYS[5], name)
redis.call('ZREM', KEYS[6], name)
if listed then
  redis.call('ZADD', KEYS[7], r.created, name)
  redis.call('ZADD', KEYS[8], r.expires, name)
end
tell(KEYS[4])
return at
