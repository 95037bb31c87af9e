-- Claims an operation that is absent or expired, or takes over a lapsed one.
-- KEYS: value, request, steps, waiters, open, due, done, expiry, methods. ARGV: time, name, draft of the value, fence to take
-- over or empty, lease, request or empty. Returns nil if the claim succeeded, else the value that prevented it, and the
-- time.
local at, name = now(), ARGV[2]
local new, body = decode(ARGV[3]), string.sub(ARGV[3], HEAD + 1)
local value = redis.call('GET', KEYS[1])
local old = value and decode(value)
if old and expired(old, at) then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  redis.call('ZREM', KEYS[7], place(old, name))
  redis.call('ZREM', KEYS[8], place(old, name))
  old = nil
end
new.till = at + ARGV[5]
if old then
  -- The answer to an earlier try of this claim was lost.
  if old.fence == new.fence and leased(old) then return false end
  if ARGV[4] == '' or old.fence ~= ARGV[4] or not lapsed(old, at) then return {value, at} end
  local ending = string.sub(value, before_ending(old) + 1)
  new.state = ending == '' and RUNNING or UNDOING
  new.flags = bit.bor(new.flags, bit.band(old.flags, REQUEST))
  new.created, new.attempts = old.created, old.attempts + 1
  new.failed_runs, new.failed_undos = old.failed_runs, old.failed_undos
  body = body .. ending
  redis.call('ZREM', KEYS[5], place(old, name))
else
  new.created = at
  redis.call('HSETNX', KEYS[9], new.method_crc, string.sub(body, 1, new.method_length))
  if ARGV[6] ~= '' then
    new.flags = bit.bor(new.flags, REQUEST)
    redis.call('SET', KEYS[2], ARGV[6])
  end
end
redis.call('SET', KEYS[1], encode(new) .. body)
redis.call('ZADD', KEYS[5], 0, place(new, name))
if is_for_recovery(new, KEYS[3]) then
  redis.call('ZADD', KEYS[6], new.till, name)
elseif old then
  redis.call('ZREM', KEYS[6], name)
end
if old then tell(KEYS[4]) end
return false
