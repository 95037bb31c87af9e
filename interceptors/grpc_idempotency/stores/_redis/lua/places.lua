-- Reads places from the indexes: of each state and method, the first ones between two ages and names.
-- KEYS: open, done. ARGV: time, states, CRC of the method or empty for all, the least and the most age and name, which are
-- not included themselves, the most places for each state and method, 1 for the newest first or empty.
local found, most = {}, tonumber(ARGV[6])
for i = 1, #ARGV[2] do
  local state = string.byte(ARGV[2], i)
  local index = KEYS[state == COMPLETED and 2 or 1]
  for _, lane in ipairs(ARGV[3] == '' and lanes(index, state) or {string.char(state) .. ARGV[3]}) do
    local low, high = '(' .. lane .. ARGV[4], '(' .. lane .. ARGV[5]
    local part = ARGV[7] == '' and redis.call('ZRANGEBYLEX', index, low, high, 'LIMIT', 0, most)
      or redis.call('ZREVRANGEBYLEX', index, high, low, 'LIMIT', 0, most)
    for _, one in ipairs(part) do found[#found + 1] = one end
  end
end
return found
