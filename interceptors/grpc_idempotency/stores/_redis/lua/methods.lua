-- Reads the methods of the records of one tag. KEYS: open, done, methods. ARGV: time.
local found = {}
for state = RUNNING, UNDOING do
  for _, lane in ipairs(lanes(KEYS[state == COMPLETED and 2 or 1], state)) do
    found[#found + 1] = redis.call('HGET', KEYS[3], string.sub(lane, 2))
  end
end
return found
