-- Reads names from an index by age, with their ages in turn, after a place in it.
-- KEYS: open or done. ARGV: time, the age of the place, its name, the most names.

-- Lua compares strings by the server's locale, and an index orders names by their bytes.
local function comes_after(name, other)
  for i = 1, #name do
    local a, b = string.byte(name, i), string.byte(other, i) or -1
    if a ~= b then return a > b end
  end
  return false
end

local found, offset, most, age = {}, 0, tonumber(ARGV[4]), tonumber(ARGV[2])
repeat
  local part = redis.call('ZRANGEBYSCORE', KEYS[1], age, '+inf', 'WITHSCORES', 'LIMIT', offset, most)
  for i = 1, #part, 2 do
    if tonumber(part[i + 1]) > age or comes_after(part[i], ARGV[3]) then
      found[#found + 1] = part[i]
      found[#found + 1] = part[i + 1]
    end
  end
  offset = offset + most
until #part < most * 2 or #found >= most * 2
return found
