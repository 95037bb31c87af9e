-- Reads places from one index, in the order of the index, and returns those whose names lie between two.
-- KEYS: open or done. ARGV: time, the place after which to begin or empty, the least and the most name, which are included,
-- how many places to look at. Returns the last place that it has looked at, or empty at the end, and the names.

-- Lua compares strings by the server's locale.
local function comes_after(name, other)
  for i = 1, #name do
    local a, b = string.byte(name, i), string.byte(other, i)
    if a ~= b then return a > b end
  end
  return false
end

local most = tonumber(ARGV[5])
local part = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2] == '' and '-' or '(' .. ARGV[2], '+', 'LIMIT', 0, most)
local found = {#part == most and part[most] or ''}
for _, one in ipairs(part) do
  local name = string.sub(one, 12)
  if not comes_after(ARGV[3], name) and not comes_after(name, ARGV[4]) then found[#found + 1] = name end
end
return found
