-- Reads what operators did to an operation, the oldest first: each a time and a packed note.
-- KEYS: notes. ARGV: time, name, how long notes are kept.
local found, since = {}, now() - ARGV[3]
for _, note in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if struct.unpack('>d', note) > since then found[#found + 1] = note end
end
return found
