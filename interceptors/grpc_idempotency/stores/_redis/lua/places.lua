-- Reads places of unexpired records from the indexes: of each state and method, the first ones between two ages and names.
-- KEYS: open, done, expiry. ARGV: time, states, CRC of the method or empty for all, the least and the most age and name,
-- which are not included themselves, the most places for each state and method, 1 for the newest first or empty.
local at, found, most, newest = now(), {}, tonumber(ARGV[6]), ARGV[7] ~= ''

local function is_expired(place)
  local expires = redis.call('ZSCORE', KEYS[3], place)
  return expires and tonumber(expires) <= at
end

local function read(index, low, high)
  local left, part = most, nil
  repeat
    part = newest and redis.call('ZREVRANGEBYLEX', index, high, low, 'LIMIT', 0, most)
      or redis.call('ZRANGEBYLEX', index, low, high, 'LIMIT', 0, most)
    for _, place in ipairs(part) do
      if left > 0 and not (index == KEYS[2] and is_expired(place)) then
        found[#found + 1] = place
        left = left - 1
      end
    end
    if newest then high = '(' .. (part[#part] or '') else low = '(' .. (part[#part] or '') end
  until left == 0 or #part < most
end

for i = 1, #ARGV[2] do
  local state = string.byte(ARGV[2], i)
  local index = KEYS[state == COMPLETED and 2 or 1]
  for _, lane in ipairs(ARGV[3] == '' and lanes(index, state) or {string.char(state) .. ARGV[3]}) do
    read(index, '(' .. lane .. ARGV[4], '(' .. lane .. ARGV[5])
  end
end
return found
