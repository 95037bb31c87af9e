-- Precedes every script. KEYS[1] is the operation's value where a script has one; ARGV[1] is the time in milliseconds for
-- tests, or empty: then the server's clock decides.
--
-- A value is a head of fixed size, and after it: method, digests of the request, trace context, owner, reason, and the
-- packed outcome or failure. packing.py has the same layout. Times are milliseconds since 1970, 0 for none.
local RUNNING, COMPLETED, HELD, WAITING, UNDOING = 0, 1, 2, 3, 4
local OPAQUE, TRANSACTIONAL = 0, 1
local STREAMS, RESOLVED, REQUEST = 1, 2, 4
local LAYOUT = '>BBBc16ddddI4I4I4HBHI4Bc4'
local HEAD = 77
local TILL = 19  -- the index of "till" in the value

local function now()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function decode(value)
  local r = {}
  r.state, r.effects, r.flags, r.fence, r.till, r.created, r.completed, r.expires, r.attempts, r.failed_runs, r.failed_undos,
    r.method_length, r.prints_length, r.owner_length, r.reason_length, r.trace_length, r.method_crc =
    struct.unpack(LAYOUT, value)
  return r
end

local function encode(r)
  return struct.pack(LAYOUT, r.state, r.effects, r.flags, r.fence, r.till, r.created, r.completed, r.expires,
    r.attempts, r.failed_runs, r.failed_undos, r.method_length, r.prints_length, r.owner_length, r.reason_length,
    r.trace_length, r.method_crc)
end

-- Returns the head of the operation's value, or nil if there is none.
local function head()
  local value = redis.call('GETRANGE', KEYS[1], 0, HEAD - 1)
  if value == '' then return nil end
  return decode(value)
end

local function expired(r, at) return r.state == COMPLETED and r.expires <= at end

local function leased(r) return r.state == RUNNING or r.state == UNDOING end

local function lapsed(r, at) return (leased(r) or r.state == WAITING) and r.till <= at end

-- Returns the head if the record is running or undoing under the fence.
local function leased_head(fence)
  local r = head()
  if r and r.fence == fence and leased(r) then return r end
  return nil
end

-- Returns true if recovery can deal with an open record without its client: it is in doubt, has a request, or has had no
-- effect. Recovery has an index of its own, which has only these.
local function is_for_recovery(r, steps)
  if bit.band(r.flags, REQUEST) ~= 0 then return true end
  if r.effects == TRANSACTIONAL then return redis.call('HLEN', steps) == 0 end
  return r.effects == OPAQUE and leased(r)
end

-- Returns the positions before the owner, before the reason, and before the outcome or failure.
local function before_owner(r) return HEAD + r.method_length + r.prints_length + r.trace_length end

local function before_reason(r) return before_owner(r) + r.owner_length end

local function before_ending(r) return before_reason(r) + r.reason_length end

-- Returns a record's member of the indexes "open", "done" and "expiry": its state, the CRC of its method, when it was
-- created, and its name. In "open" and "done" all scores are equal, so that they are in the order of their bytes: each
-- method of each state is one range, by age. It has 27 bytes; a longer one takes more memory.
local function place(r, name) return struct.pack('>Bc4I6', r.state, r.method_crc, r.created) .. name end

-- Changes the state of a record, also in the index of open ones.
local function become(r, state, open, name)
  redis.call('ZREM', open, place(r, name))
  r.state = state
  redis.call('ZADD', open, 0, place(r, name))
end

-- Returns the bound after all places of one state and method, which is not included itself.
local function beyond(lane) return '(' .. lane .. string.rep('\255', 22) end

-- Returns the beginnings of the places of one state in an index: one for each method.
local function lanes(index, state)
  local found, least, most = {}, '[' .. string.char(state), '(' .. string.char(state + 1)
  while true do
    local first = redis.call('ZRANGEBYLEX', index, least, most, 'LIMIT', 0, 1)[1]
    if not first then return found end
    found[#found + 1] = string.sub(first, 1, 5)
    least = beyond(found[#found])
  end
end

-- A server whose memory is full refuses a script that begins with a write that needs memory. A record that is open must
-- still be renewed and completed, so its scripts begin with a write that needs none and changes nothing.
local function begin() redis.call('PERSIST', KEYS[1]) end

-- Keeps an operator's note of what was done, with the time; empty: there is none.
local function leave(notes, note, at, kept)
  if note == '' then return end
  redis.call('RPUSH', notes, struct.pack('>d', at) .. note)
  redis.call('PEXPIRE', notes, kept)
end

-- Tells the processes whose calls wait for the end of this run; see watch.lua. ARGV[2] is the operation's name.
local function tell(waiters)
  local channels = redis.call('SMEMBERS', waiters)
  for _, channel in ipairs(channels) do redis.pcall('PUBLISH', channel, ARGV[2]) end
  if #channels > 0 then redis.call('DEL', waiters) end
end
